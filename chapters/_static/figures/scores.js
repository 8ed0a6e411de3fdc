/* One query scores four keys: lines of equal score in the keys' plane, and the scores as bars. */
(() => {
  "use strict";

  const CENTRE = 130; // of the plane, in SVG units
  const UNIT = 56; // SVG units to one
  const REACH = 2; // the query stays within ±2
  const EDGE = 2.2; // the lines fill the plane to ±2.2
  const CELL = 0.2; // of the grid on which they are found
  const LEVELS = Array.from({ length: 25 }, (_, i) => i / 2 - 6); // in steps of one half
  const STEP = 0.1; // of an arrow key; Shift makes it five times as long
  const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  const BAR = { zero: 168, unit: 15 };

  const W = [[0, 1], [-1, 0]]; // bilinear: the query turned by a right angle
  const W_Q = [[1, -1.5, -0.5], [0.5, 0, 1.5]];
  const W_K = [[-1, 1, -1], [0.5, -0.5, 1]];
  const V = [2, 2, -1];

  const times = ([x, y], matrix) => matrix[0].map((_, column) => x * matrix[0][column] + y * matrix[1][column]);
  const dot = (a, b) => a.reduce((sum, component, i) => sum + component * b[i], 0);
  const network = (bend) => (query) => {
    const asked = times(query, W_Q); // once for the query, not for each key
    return (key) => dot(V, times(key, W_K).map((offered, unit) => bend(asked[unit] + offered)));
  };
  const SCORES = {
    dot: { formula: "q · k", direction: (query) => query, of: (query) => (key) => dot(query, key) },
    bilinear: { formula: "q W kᵀ", direction: (query) => times(query, W), of: (query) => (key) => dot(times(query, W), key) },
    additive: { formula: "v · tanh(q W_q + k W_k)", of: network(Math.tanh) },
    linear: { formula: "v · (q W_q + k W_k)", of: network((inside) => inside) },
  };

  const toSvg = ([x, y]) => [CENTRE + UNIT * x, CENTRE - UNIT * y].map((length) => length.toFixed(1));
  const signed = (number) => number.toFixed(1).replace("-0.0", "0.0").replace("-", "−");
  const point = ([x, y]) => `(${signed(x)}, ${signed(y)})`;

  /* The line on which `score` has the value `level`, as a path: one segment for each triangle of the grid it crosses. */
  function contour(score, level) {
    const count = Math.round(2 * EDGE / CELL) + 1;
    const grid = Array.from({ length: count }, (_, i) => -EDGE + CELL * i);
    const above = grid.map((x) => grid.map((y) => score([x, y]) - level));
    const pieces = [];
    for (let i = 0; i + 1 < count; i++) {
      for (let j = 0; j + 1 < count; j++) {
        for (const middle of [[i + 1, j], [i, j + 1]]) {
          const corners = [[i, j], middle, [i + 1, j + 1]];
          const ends = corners.flatMap((from, side) => {
            const to = corners[(side + 1) % 3];
            const [low, high] = [above[from[0]][from[1]], above[to[0]][to[1]]];
            if (low < 0 === high < 0) return [];
            const share = low / (low - high);
            return [toSvg([0, 1].map((axis) => grid[from[axis]] + share * (grid[to[axis]] - grid[from[axis]])))];
          });
          if (ends.length === 2) pieces.push(`M${ends[0].join(" ")}L${ends[1].join(" ")}`);
        }
      }
    }
    return pieces.join("");
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const keys = all("key").map((key) => key.dataset.at.split(" ").map(Number));
    const inputs = [one("q1-input"), one("q2-input")];
    const handle = one("query");
    const plane = one("key-plane");
    let speak = 0;

    function drawLine(element, from, to) {
      const [[x1, y1], [x2, y2]] = [toSvg(from), toSvg(to)];
      for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) element.setAttribute(name, value);
    }

    function draw() {
      const query = inputs.map((input) => Number(input.value));
      const chosen = all("score-input").find((input) => input.checked);
      const { formula, direction, of } = SCORES[chosen.value];
      const score = of(query);
      const scores = keys.map(score);

      handle.setAttribute("transform", `translate(${toSvg(query).join(" ")})`);
      handle.setAttribute("aria-valuenow", query[0].toFixed(1));
      handle.setAttribute("aria-valuetext", point(query));
      drawLine(one("query-line"), [0, 0], query);
      const paths = { positive: "", negative: "", zero: "" };
      for (const level of LEVELS) {
        paths[level > 0 ? "positive" : level < 0 ? "negative" : "zero"] += contour(score, level);
      }
      for (const [sign, path] of Object.entries(paths)) one(`contours-${sign}`).setAttribute("d", path);

      // What the keys are projected on: the query, or the query turned. A network has no such line.
      const along = direction ? direction(query) : [0, 0];
      const squared = dot(along, along);
      const ends = [-EDGE, EDGE].map((reach) => along.map((component) => squared && reach * component / Math.sqrt(squared)));
      drawLine(one("direction-line"), ...ends);
      drawLine(one("turned-line"), [0, 0], along);
      keys.forEach((key, i) => {
        const foot = squared ? along.map((component) => component * scores[i] / squared) : key;
        drawLine(all("foot")[i], key, foot);
        const width = BAR.unit * scores[i];
        const bar = all("score-bar")[i];
        bar.setAttribute("x", (BAR.zero + Math.min(0, width)).toFixed(1));
        bar.setAttribute("width", Math.max(0.5, Math.abs(width)).toFixed(1));
        all("score-text")[i].textContent = signed(scores[i]);
      });

      const order = keys.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
      const named = order.map((i) => `k${"₁₂₃₄"[i]}`).join(" > ");
      one("order-text").textContent = named;
      one("formula-text").textContent = `scores ${formula}`;
      inputs.forEach((input, axis) => { one(`q${axis + 1}-output`).textContent = signed(query[axis]); });
      const name = chosen.closest("label").textContent.trim();
      const message = `Query ${point(query)}, ${name}. Scores of keys 1 to 4: ${scores.map(signed).join(", ")}. `
        + `Ranking: ${order.map((i) => i + 1).join(", ")}.`;
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
      inputs.forEach((input) => { input.value = input.defaultValue; });
      all("score-input").forEach((input) => { input.checked = input.defaultChecked; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="scores"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
