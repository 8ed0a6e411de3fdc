/* One token asks, two heads weigh the same six tokens; what each gives stands side by side in the output. */
(() => {
  "use strict";

  const FULL = 40; // height of a weight of 1
  const NEAR = 4; // score of both neighbours; a head's lean is added on one side and taken from the other
  const NOISE = 0.03; // standard deviation, so that two heads that nearly agree don't count as two
  const dot = (a, b) => a.reduce((partial, number, i) => partial + number * b[i], 0);

  function weigh(asked, lean, count) {
    const exps = Array.from({ length: count }, (_, i) => {
      if (i === asked - 1) return Math.exp(NEAR - lean);
      return i === asked + 1 ? Math.exp(NEAR + lean) : 1;
    });
    const total = exps.reduce((partial, exp) => partial + exp, 0);
    return exps.map((exp) => exp / total);
  }

  // The share of both neighbours' variance that the best readout finds in what the heads give.
  function explained(heads, asked) {
    const seen = heads.map((weights) => [weights[asked - 1], weights[asked + 1]]);
    if (seen.length === 0) return 0;
    const own = heads.map((weights) => dot(weights, weights) + NOISE ** 2);
    if (seen.length === 1) return dot(seen[0], seen[0]) / own[0] / 2;
    const shared = dot(heads[0], heads[1]);
    const [one, other] = seen.map((pair) => dot(pair, pair));
    return (own[1] * one + own[0] * other - 2 * shared * dot(seen[0], seen[1])) / (own[0] * own[1] - shared ** 2) / 2;
  }

  function start(figure) {
    const all = (role, within = figure) => [...within.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const values = all("value").map((text) => Number(text.textContent));
    const columns = all("value").map((text) => text.getAttribute("x"));
    const switches = all("on-input");
    const leans = all("lean-input");
    const askedInput = one("asked-input");
    const bases = all("head").map((head) => Number(head.querySelector("line").getAttribute("y1")));
    let speak = 0;

    function drawHead(head, place, weights, on) {
      head.classList.toggle("is-off", !on);
      weights.forEach((weight, i) => {
        const height = Math.max(FULL * weight, 0.5);
        const bar = all("bar", head)[i];
        bar.setAttribute("y", (bases[place] - height).toFixed(1));
        bar.setAttribute("height", height.toFixed(1));
        all("weight-text", head)[i].textContent = weight.toFixed(2);
      });
    }

    function draw() {
      const asked = Number(askedInput.value) - 1;
      const heads = leans.map((input) => weigh(asked, Number(input.value), values.length));
      const on = switches.map((input) => input.checked);
      const gives = heads.map((weights) => dot(weights, values).toFixed(2));
      const share = explained(heads.filter((_, place) => on[place]), asked).toFixed(2);
      const wanted = `${values[asked - 1]} and ${values[asked + 1]}`;

      one("query").setAttribute("transform", `translate(${columns[asked]} 14)`);
      one("asked-output").textContent = askedInput.value;
      heads.forEach((weights, place) => {
        const [left, right] = [weights[asked - 1], weights[asked + 1]].map((weight) => weight.toFixed(2));
        drawHead(all("head")[place], place, weights, on[place]);
        all("output-text")[place].textContent = on[place] ? gives[place] : "–";
        all("lean-output")[place].textContent = `${left} : ${right}`;
        leans[place].setAttribute("aria-valuetext", `${left} on the left, ${right} on the right`);
        leans[place].disabled = !on[place];
      });
      one("wanted-text").textContent = `wanted: ${wanted}`;
      one("share-text").textContent = `R² = ${share}`;

      const said = gives.map((number, place) => (on[place] ? `Head ${place + 1} gives ${number}.` : `Head ${place + 1} is off.`));
      const message = `Token ${asked + 1} asks for ${wanted}. ${said.join(" ")} ` +
        `R² = ${share}: the share of both neighbours that can be read off the output.`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      [...leans, askedInput].forEach((input) => { input.value = input.defaultValue; });
      switches.forEach((input) => { input.checked = true; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="multi_head"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
