/* Patterns of sparse attention as a matrix of pairs, and what one token has heard of after so many layers. */
(() => {
  "use strict";

  const N = 16;
  const CELL = 16;
  const GLOBAL = 5; // the Longformer's; Big Bird's is the first
  const BLOCK = 4;
  const RANDOM = 2;
  const positions = [...Array(N).keys()];

  // `n` distinct ones of `others`, drawn with the numbers of `chance`.
  function draw(others, n, chance) {
    const left = [...others];
    return positions.slice(0, Math.min(n, left.length)).map(() => left.splice(Math.floor(chance() * left.length), 1)[0]);
  }

  // The same seed draws the same blocks, so that another radius or token shows the same mask.
  function generator(seed) {
    let state = seed;
    return () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
  }

  const PATTERNS = {
    window: (radius) => (i, j) => Math.abs(i - j) <= radius,
    causal: (radius) => (i, j) => i - j >= 0 && i - j <= radius,
    gaps: (radius) => (i, j) => Math.abs(i - j) <= 2 * radius && (i - j) % 2 === 0,
    global: (radius) => (i, j) => Math.abs(i - j) <= radius || i === GLOBAL || j === GLOBAL,
    blocks: () => (i, j) => Math.floor(i / BLOCK) === Math.floor(j / BLOCK),
    bigbird: (radius, seed) => {
      const certain = (i, j) => Math.abs(i - j) <= radius || i === 0 || j === 0;
      const chance = generator(seed);
      const drawn = positions.map((i) => draw(positions.filter((j) => !certain(i, j)), RANDOM, chance));
      return (i, j) => certain(i, j) || drawn[i].includes(j);
    },
  };

  // For each token the layer in which `token` first hears of it: 0 is itself, undefined if it is later than `layers`.
  function firstHeard(sees, token, layers) {
    const first = Array(N).fill(undefined);
    first[token] = 0;
    for (let layer = 1; layer <= layers; layer += 1) {
      const known = positions.filter((i) => first[i] !== undefined);
      positions.forEach((j) => {
        if (first[j] === undefined && known.some((i) => sees(i, j))) first[j] = layer;
      });
    }
    return first;
  }

  function start(figure) {
    const one = (role) => figure.querySelector(`[data-role="${role}"]`);
    const numbers = figure.querySelectorAll('[data-role="first"]');
    const inputs = Object.fromEntries(["radius", "token", "layers"].map((name) => [name, one(`${name}-input`)]));
    const [left, top] = [Number(one("row").getAttribute("x")) + 1, Number(one("row").getAttribute("y")) + 1];
    const below = Number(numbers[0].getAttribute("y")) - 12.5;
    let seed = 7;
    let speak = 0;

    const cell = (column, y) => `M${left + column * CELL + 1} ${y + 1}h${CELL - 2}v${CELL - 2}h-${CELL - 2}Z`;

    function show() {
      const pattern = figure.querySelector("input[type=radio]:checked");
      const [radius, token, layers] = ["radius", "token", "layers"].map((name) => Number(inputs[name].value));
      const sees = PATTERNS[pattern.value](radius, seed);
      const kept = positions.flatMap((i) => positions.filter((j) => sees(i, j)).map((j) => [i, j]));
      const first = firstHeard(sees, token, layers);
      const heard = positions.filter((j) => first[j] !== undefined);

      one("kept").setAttribute("d", kept.map(([i, j]) => cell(j, top + i * CELL)).join(""));
      one("row").setAttribute("y", top + token * CELL - 1);
      one("heard").setAttribute("d", heard.map((j) => cell(j, below)).join(""));
      numbers.forEach((number, j) => { number.textContent = first[j] ?? ""; });
      one("heard-title").textContent = `Token ${token} has heard of these; the number is the layer:`;
      const share = Math.round((100 * kept.length) / N ** 2);
      one("pairs").textContent = `${kept.length} of ${N ** 2} pairs are computed, ${share} %.`;

      Object.entries(inputs).forEach(([name, input]) => { one(`${name}-output`).textContent = input.value; });
      inputs.radius.disabled = pattern.value === "blocks";
      one("draw").hidden = pattern.value !== "bigbird";
      const all = firstHeard(sees, token, N);
      const needed = all.includes(undefined)
        ? `It never hears of ${all.filter((layer) => layer === undefined).length} of them.`
        : `It takes ${Math.max(...all)} until it has heard of all.`;
      const message = `${pattern.parentElement.textContent.trim()}: ${kept.length} pairs, ${share} %. ` +
        `After ${layers} layer${layers > 1 ? "s" : ""} token ${token} has heard of ${heard.length} of ${N} tokens. ${needed}`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("draw").addEventListener("click", () => {
      seed += 1;
      show();
    });
    one("reset").addEventListener("click", () => {
      figure.querySelectorAll("input").forEach((input) => {
        if (input.type === "radio") input.checked = input.defaultChecked;
        else input.value = input.defaultValue;
      });
      show();
    });
    figure.addEventListener("input", show);
    figure.classList.add("is-live");
    show();
  }

  const startAll = () => document.querySelectorAll('[data-figure="sparse"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
