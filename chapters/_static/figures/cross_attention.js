/* A decoder reads a memory step by step: who asks, what it reads, and the rows of weights that fill up. */
(() => {
  "use strict";

  const MEMORY = ["ich", "habe", "ein", "Haus", "gesehen", "pad"];
  const WRITTEN = ["I", "have", "seen", "a", "house"];
  const PADDING = MEMORY.length - 1;
  const WIDEST = 5; // a window of this radius hides nothing
  const THICK = 10; // a line's width for a weight of 1

  // Luong's local-m: around the step's own place, under a bell that is not renormalised.
  function weigh(scores, step, { padding, radius }) {
    const local = radius < WIDEST;
    const seen = scores.map((_, j) => (j !== PADDING || padding) && !(local && Math.abs(j - step) > radius));
    const exps = scores.map((score, j) => (seen[j] ? Math.exp(score) : 0));
    const total = exps.reduce((partial, exp) => partial + exp, 0);
    const bell = scores.map((_, j) => (local ? Math.exp(-2 * ((j - step) / radius) ** 2) : 1));
    return { seen, weights: exps.map((exp, j) => (bell[j] * exp) / total) };
  }

  function start(figure) {
    const all = (role, within = figure) => [...within.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const places = all("state").map((state) => state.querySelector("circle").getAttribute("cx"));
    const inputs = [...figure.querySelectorAll("input")];
    let speak = 0;

    function drawRow(row, step, choice) {
      const cells = all("cell", row);
      const { seen, weights } = weigh(cells.map((cell) => Number(cell.dataset.score)), step, choice);
      cells.forEach((cell, j) => {
        const [ground, cross, text] = cell.children;
        ground.setAttribute("fill-opacity", weights[j].toFixed(2));
        cross.setAttribute("visibility", seen[j] ? "hidden" : "visible");
        text.textContent = weights[j].toFixed(2);
      });
      return weights;
    }

    function draw() {
      const step = Number(one("step").value);
      const choice = { padding: one("padding").checked, radius: WIDEST - Number(one("narrowing").value) };
      const before = all("decoder").find((input) => input.checked).value === "Bahdanau";
      const asking = before ? step - 1 : step;
      const rows = all("map-row").map((row, place) => drawRow(row, place, choice));
      const weights = rows[step - 1];

      all("map-row").forEach((row, place) => row.setAttribute("display", place < step ? "inline" : "none"));
      all("state").forEach((state, place) => state.classList.toggle("is-off", place > step));
      all("written").forEach((text, place) => { text.textContent = place && place <= step ? WRITTEN[place - 1] : ""; });
      all("row")[PADDING].classList.toggle("is-off", !choice.padding);
      one("asks").setAttribute("cx", places[asking]);
      all("line").forEach((line, j) => {
        line.setAttribute("x1", places[asking]);
        line.setAttribute("stroke-width", (THICK * weights[j]).toFixed(1));
      });

      const order = before ? `s${asking} asks, what it reads goes into s${step}` : `s${asking} asks, what it reads goes into the word`;
      const largest = weights.map((_, j) => j).sort((a, b) => weights[b] - weights[a]);
      const [first, second] = largest.map((j) => `${weights[j].toFixed(2)} ${MEMORY[j]}`);
      one("order").textContent = order;
      one("context").textContent = `context = ${first} + ${second} + …`;
      one("step-output").textContent = step;
      one("window-output").textContent = choice.radius === WIDEST ? "off" : `± ${choice.radius}`;
      one("narrowing").setAttribute("aria-valuetext", choice.radius === WIDEST ? "off" : `plus or minus ${choice.radius}`);
      one("step").setAttribute("aria-valuetext", `${step}, writes ${WRITTEN[step - 1]}`);
      const sum = weights.reduce((partial, weight) => partial + weight, 0);
      const message = `Step ${step} writes “${WRITTEN[step - 1]}”. ${order}. It reads ${MEMORY[largest[0]]} most. ` +
        `The weights sum to ${sum.toFixed(2)}.`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    // Mouse: a state or a row of the map is a step.
    all("state").forEach((state, place) => state.addEventListener("click", () => go(place)));
    all("map-row").forEach((row, place) => row.addEventListener("click", () => go(place + 1)));
    function go(step) {
      one("step").value = Math.max(step, 1);
      draw();
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

  const startAll = () => document.querySelectorAll('[data-figure="cross_attention"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
