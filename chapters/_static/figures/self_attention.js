/* One query among five keys weighs five values; the output stays inside the values' convex hull. */
(() => {
  "use strict";

  const CENTRE = 130; // of both planes, in SVG units
  const UNIT = 56; // SVG units to one
  const REACH = 2; // the query stays within ±2
  const STEP = 0.1; // of an arrow key; Shift makes it five times as long
  const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  const toSvg = ([x, y]) => [CENTRE + UNIT * x, CENTRE - UNIT * y];
  const signed = (number) => number.toFixed(1).replace("-0.0", "0.0").replace("-", "−");
  const point = ([x, y]) => `(${signed(x)}, ${signed(y)})`;

  function attend(query, keys, values, scale) {
    const scores = keys.map((key) => scale * (query[0] * key[0] + query[1] * key[1]));
    const top = Math.max(...scores);
    const exps = scores.map((score) => Math.exp(score - top));
    const total = exps.reduce((partial, exp) => partial + exp, 0);
    const weights = exps.map((exp) => exp / total);
    const output = [0, 1].map((axis) => values.reduce((partial, value, i) => partial + weights[i] * value[axis], 0));
    return { weights, output };
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const place = (element) => element.dataset.at.split(" ").map(Number);
    const keys = all("key").map(place);
    const values = all("value").map(place);
    const inputs = [one("q1-input"), one("q2-input")];
    const scaleInput = one("scale-input");
    const handle = one("query");
    const plane = one("key-plane");
    let speak = 0;

    function draw() {
      const query = inputs.map((input) => Number(input.value));
      const scale = 2 ** Number(scaleInput.value) / Math.SQRT2;
      const { weights, output } = attend(query, keys, values, scale);

      const [queryX, queryY] = toSvg(query).map((length) => length.toFixed(1));
      handle.setAttribute("transform", `translate(${queryX} ${queryY})`);
      handle.setAttribute("aria-valuenow", query[0].toFixed(1));
      handle.setAttribute("aria-valuetext", point(query));
      one("query-line").setAttribute("x2", queryX);
      one("query-line").setAttribute("y2", queryY);

      const [outputX, outputY] = toSvg(output).map((length) => length.toFixed(1));
      one("output").setAttribute("cx", outputX);
      one("output").setAttribute("cy", outputY);
      one("output-text").setAttribute("x", (Number(outputX) + (output[0] > 0.7 ? -54 : 11)).toFixed(1));
      one("output-text").setAttribute("y", (Number(outputY) + 18).toFixed(1));
      weights.forEach((weight, i) => {
        all("weight-text")[i].textContent = weight.toFixed(2);
        const pull = all("pull")[i];
        pull.setAttribute("x2", outputX);
        pull.setAttribute("y2", outputY);
        pull.setAttribute("stroke-width", (8 * weight).toFixed(1));
        const [x, y] = toSvg(values[i]).map((length) => length.toFixed(1));
        const size = 5 + 9 * Math.sqrt(weight); // area, not width, grows with the weight
        all("value")[i].setAttribute("transform", `translate(${x} ${y}) scale(${size.toFixed(1)})`);
      });

      one("q1-output").textContent = signed(query[0]);
      one("q2-output").textContent = signed(query[1]);
      one("scale-output").textContent = scale.toPrecision(2);
      scaleInput.setAttribute("aria-valuetext", scale.toPrecision(2));
      const largest = Math.max(...weights);
      const chosen = largest - Math.min(...weights) < 0.005
        ? "All weights are equal"
        : `Largest weight ${largest.toFixed(2)}, on key ${weights.indexOf(largest) + 1}`;
      const message =
        `Query ${point(query)}, scale ${scale.toPrecision(2)}. ${chosen}. Output ${point(output)}, inside the hull.`;
      clearTimeout(speak); // a dragged query should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    function moveTo(query) {
      inputs.forEach((input, axis) => { input.value = Math.max(-REACH, Math.min(REACH, query[axis])); });
      draw();
    }

    function moveToPointer(event) {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(handle.parentNode.getScreenCTM().inverse());
      moveTo([(x - CENTRE) / UNIT, (CENTRE - y) / UNIT]);
    }

    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) moveToPointer(event);
    });
    plane.addEventListener("click", moveToPointer);
    handle.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault(); // or the page scrolls away
      moveTo(inputs.map((input, axis) => Number(input.value) + arrow[axis] * (event.shiftKey ? 5 : 1)));
    });
    one("reset").addEventListener("click", () => {
      [...inputs, scaleInput].forEach((input) => { input.value = input.defaultValue; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="self_attention"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
