/* Dot products of growing width: their spread, the weights that one query makes of them, the gradient that comes back. */
(() => {
  "use strict";

  const QUERIES = 60;
  const KEYS = 16; // of each query: 960 pairs in all
  const STEPS = 9; // widths 1, 2, 4, …, 256
  const AXIS = { left: 8, right: 322, reach: 24 }; // scores beyond ±24 count as 24
  const HILL = { floor: 118, height: 84 };
  const BARS = { floor: 268, height: 96 };
  const GAUGE = { left: 8, right: 322, decades: 4 }; // lengths from 10⁻⁴ to 1
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
  const plain = (number) => number.toPrecision(3).replace("-", "−");

  // A generator of its own, so that the picture without JavaScript is the picture that it starts with.
  function normalNumbers(seed) {
    let state = seed;
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
    return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  /* dots[step][query][key]: the dot product of the first 2^step components of the same vectors. */
  function dotProducts(normal) {
    const dots = Array.from({ length: STEPS }, () => Array.from({ length: QUERIES }, () => new Float64Array(KEYS)));
    const running = Array.from({ length: QUERIES }, () => new Float64Array(KEYS));
    for (let width = 1; width <= 2 ** (STEPS - 1); width++) {
      for (const row of running) {
        const component = normal();
        for (let key = 0; key < KEYS; key++) row[key] += component * normal();
      }
      if (Number.isInteger(Math.log2(width))) running.forEach((row, query) => dots[Math.log2(width)][query].set(row));
    }
    return dots;
  }

  function softmax(scores) {
    const top = Math.max(...scores);
    const exps = Array.from(scores, (score) => Math.exp(score - top));
    return exps.map((exp) => exp / sum(exps));
  }

  function gradientLength(weights, arriving) {
    const mean = sum(weights.map((weight, i) => weight * arriving[i]));
    return Math.hypot(...weights.map((weight, i) => weight * (arriving[i] - mean)));
  }

  const toX = (score) => {
    const inside = Math.max(-AXIS.reach, Math.min(AXIS.reach, score));
    return AXIS.left + ((inside + AXIS.reach) / (2 * AXIS.reach)) * (AXIS.right - AXIS.left);
  };

  /* The histogram as one path of steps, its tallest column at full height. */
  function hill(scores) {
    const columns = new Array(2 * AXIS.reach).fill(0);
    for (const score of scores) {
      columns[Math.max(0, Math.min(columns.length - 1, Math.floor(score + AXIS.reach)))] += 1;
    }
    const tallest = Math.max(...columns);
    const steps = columns.map((count, i) => {
      const y = (HILL.floor - (HILL.height * count) / tallest).toFixed(1);
      return `V${y}H${toX(i + 1 - AXIS.reach).toFixed(1)}`;
    });
    return `M${AXIS.left} ${HILL.floor}${steps.join("")}V${HILL.floor}Z`;
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const widthInput = one("width-input");
    const queryInput = one("query-input");
    const scaleInput = one("scale-input");
    const normal = normalNumbers(11);
    const dots = dotProducts(normal);
    const arriving = dots[0].map(() => Array.from({ length: KEYS }, normal));
    let speak = 0;

    function draw() {
      const step = Number(widthInput.value);
      const width = 2 ** step;
      const chosen = Number(queryInput.value) - 1;
      const divisor = scaleInput.checked ? Math.sqrt(width) : 1;
      const scores = dots[step].map((row) => row.map((dot) => dot / divisor));
      const flat = scores.flatMap((row) => [...row]);
      const mean = sum(flat) / flat.length;
      const variance = sum(flat.map((score) => (score - mean) ** 2)) / flat.length;
      const weights = scores.map(softmax);
      const gradient = median(weights.map((row, i) => gradientLength(row, arriving[i])));
      const largest = Math.max(...weights[chosen]);

      one("hill").setAttribute("d", hill(flat));
      const spread = Math.sqrt(variance);
      all("spread").forEach((line, i) => {
        const x = toX(i ? spread : -spread).toFixed(1);
        line.setAttribute("x1", x);
        line.setAttribute("x2", x);
      });
      one("variance-text").textContent = `variance ${plain(variance)}`;
      one("weights-text").textContent = `weights of query ${chosen + 1}`;
      one("largest-text").textContent = `largest ${largest.toFixed(2)}`;
      all("weight-bar").forEach((bar, i) => {
        const height = Math.max(BARS.height * weights[chosen][i], 0.5);
        bar.setAttribute("y", (BARS.floor - height).toFixed(1));
        bar.setAttribute("height", height.toFixed(1));
      });
      const place = Math.max(0, 1 + Math.log10(gradient) / GAUGE.decades);
      one("gauge").setAttribute("cx", (GAUGE.left + place * (GAUGE.right - GAUGE.left)).toFixed(1));
      one("gradient-text").textContent = gradient.toPrecision(2);

      one("width-output").textContent = width;
      widthInput.setAttribute("aria-valuetext", `${width} components`);
      one("query-output").textContent = chosen + 1;
      const message =
        `d_k = ${width}, ${scaleInput.checked ? `divided by its root, ${plain(divisor)}` : "unscaled"}: variance ${plain(variance)}. ` +
        `The largest of query ${chosen + 1}'s 16 weights is ${largest.toFixed(2)}. ` +
        `Median length of the gradient: ${gradient.toPrecision(2)}.`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      [widthInput, queryInput].forEach((input) => { input.value = input.defaultValue; });
      scaleInput.checked = false;
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="scaling"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
