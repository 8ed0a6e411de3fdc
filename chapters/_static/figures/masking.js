/* Six queries, six keys, masks to combine, and what each way to hide makes of a row that sees nothing. */
(() => {
  "use strict";

  const WORDS = ["the", "cat", "sat", "on", "the", "mat"];
  const N = WORDS.length;
  const WIDEST = N - 1; // a window of this radius hides nothing
  const LOWEST = -3.4e38; // float32's

  const isPadding = (place, { padding, left }) => (left ? place < padding : place >= N - padding);

  function maySee(query, key, masks) {
    if (masks.causal && key > query) return false;
    if (Math.abs(query - key) > masks.radius) return false;
    return !isPadding(key, masks);
  }

  function weigh(scores, seen, fill) {
    if (fill === "cleared" && !seen.includes(true)) return scores.map(() => 0);
    const hidden = { infinity: -Infinity, cleared: -Infinity, lowest: LOWEST, zero: 0 }[fill];
    const filled = scores.map((score, key) => (seen[key] ? score : hidden));
    const top = Math.max(...filled);
    const exps = filled.map((score) => Math.exp(score - top)); // −∞ − (−∞) is NaN here as well
    const total = exps.reduce((partial, exp) => partial + exp, 0);
    return exps.map((exp) => exp / total);
  }

  function verdict(fill, empty, leaks) {
    const rows = `${empty} ${empty === 1 ? "query sees" : "queries see"} nothing`;
    if (fill === "zero") return leaks ? "A score of 0 is a score: hidden keys get weight." : "Nothing is hidden.";
    if (!empty) return "Every query sees something, and each row sums to one.";
    const outcome = {
      infinity: "NaN",
      lowest: "an even share of everything that is hidden",
      cleared: "zeros, as it should be",
    };
    return `${rows}: ${outcome[fill]}.`;
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const cells = all("cell");
    const inputs = [...figure.querySelectorAll("input")];
    let speak = 0;

    function draw() {
      const masks = {
        causal: one("causal").checked,
        left: one("left").checked,
        padding: Number(one("padding").value),
        radius: WIDEST - Number(one("narrowing").value),
      };
      const fill = all("fill").find((input) => input.checked).value;
      const word = (place) => (isPadding(place, masks) ? "pad" : WORDS[masks.left ? place - masks.padding : place]);
      let empty = 0;
      let hidden = 0;

      for (let query = 0; query < N; query += 1) {
        const row = cells.slice(N * query, N * (query + 1));
        const seen = row.map((_, key) => maySee(query, key, masks));
        const weights = weigh(row.map((cell) => Number(cell.dataset.score)), seen, fill);
        empty += !seen.includes(true);
        hidden += seen.filter((sees) => !sees).length;
        row.forEach((cell, key) => {
          const [ground, cross, text] = cell.children;
          const lost = Number.isNaN(weights[key]);
          const leak = !seen[key] && weights[key] > 0;
          ground.setAttribute("fill-opacity", lost ? 0 : weights[key].toFixed(2));
          cross.setAttribute("visibility", seen[key] ? "hidden" : "visible");
          text.textContent = lost ? "NaN" : weights[key].toFixed(2);
          text.classList.toggle("bad", lost || leak);
        });
        const sum = weights.reduce((partial, weight) => partial + weight, 0);
        all("sum")[query].textContent = Number.isNaN(sum) ? "NaN" : sum.toFixed(2);
        all("sum")[query].classList.toggle("bad", Number.isNaN(sum));
        all("query-word")[query].textContent = word(query);
        all("key-word")[query].textContent = word(query);
      }

      const { padding, radius } = masks;
      one("padding-output").textContent = `${padding} ${padding === 1 ? "key" : "keys"}`;
      one("window-output").textContent = radius === WIDEST ? "off" : `± ${radius}`;
      one("narrowing").setAttribute("aria-valuetext", radius === WIDEST ? "off" : `plus or minus ${radius}`);
      const message = `${hidden} of ${N * N} pairs are hidden. ${verdict(fill, empty, hidden > 0)}`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      for (const input of inputs) {
        input.value = input.defaultValue;
        input.checked = input.defaultChecked;
      }
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="masking"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
