/* Q, K and V to scale, multiplied in two orders; causal, the second order walks along the text in chunks. */
(() => {
  "use strict";

  const SCALE = 1.35; // picture units for one row or column
  const LEFT = 8;
  const GAP = 12; // between two matrices
  const SLOT = 46; // room for the name below a narrow one
  const BESIDE = 190; // where the state stands, right of the square's name
  const FULL = 324; // width of the longer bar
  const many = (count) => Math.round(count).toLocaleString("en-US");

  const box = (x, y, width, height) => `M${x} ${y}h${width}v${height}h${-width}Z`;
  const triangle = (x, y, size) => `M${x} ${y}v${size}h${size}Z`;

  // Rectangles from left to right around one middle line: [[role, columns, rows], …]; gives where each begins.
  function inARow(shapes, middle) {
    let left = LEFT;
    return shapes.map(([role, columns, rows]) => {
      const [width, height] = [columns * SCALE, rows * SCALE];
      const slot = Math.max(width, SLOT);
      const placed = { role, x: left + (slot - width) / 2, y: middle - height / 2, width, height };
      left += slot + GAP;
      return placed;
    });
  }

  // The square of a causal text on the left, the state beside it.
  function ofChunks(n, d, middle) {
    const [square, state] = [n * SCALE, d * SCALE];
    return [
      { role: "pairs2", x: LEFT, y: middle - square / 2, width: square, height: square },
      { role: "sums", x: BESIDE, y: middle - state / 2, width: state, height: state },
    ];
  }

  // All pairs of one chunk, masked; and what queries see through the state, chunk by chunk.
  function chunked(x, y, n, chunk) {
    const within = [];
    const before = [];
    for (let start = 0; start < n; start += chunk) {
      const size = Math.min(chunk, n - start);
      within.push(triangle(x + start * SCALE, y + start * SCALE, size * SCALE));
      if (start > 0) before.push(box(x, y + start * SCALE, start * SCALE, size * SCALE));
    }
    return [within.join(""), before.join("")];
  }

  function start(figure) {
    const one = (role) => figure.querySelector(`[data-role="${role}"]`);
    const inputs = { n: one("n-input"), d: one("d-input"), chunk: one("chunk-input") };
    const middles = [Number(one("pairs-label").getAttribute("y")), Number(one("sums-label").getAttribute("y"))].map((y) => y - 57);
    let speak = 0;

    function place({ role, x, y, width, height }, path) {
      one(role).setAttribute("d", path ?? box(x.toFixed(1), y.toFixed(1), width.toFixed(1), height.toFixed(1)));
      if (role !== "pairs2") one(`${role}-label`)?.setAttribute("x", (x + width / 2).toFixed(1));
    }

    function bar(name, operations, most, numbers) {
      one(`${name}-bar`).setAttribute("width", Math.max((FULL * operations) / most, 1).toFixed(1));
      one(`${name}-text`).textContent = `${many(operations)} operations, ${many(numbers)} numbers in between`;
    }

    function draw() {
      const n = Number(inputs.n.value);
      const d = Number(inputs.d.value);
      const causal = Number(inputs.chunk.value) > 0;
      const chunk = causal ? Math.min(2 ** (Number(inputs.chunk.value) - 1), n) : n;
      const steps = Math.ceil(n / chunk);

      const upper = inARow([["q1", d, n], ["k1", n, d], ["pairs", n, n], ["v1", d, n]], middles[0]);
      upper.forEach((shape) => place(shape, shape.role === "pairs" && causal ? triangle(shape.x, shape.y, shape.width) : undefined));
      one("pairs-outline").setAttribute("d", box(upper[2].x, upper[2].y, upper[2].width, upper[2].height));

      const lower = causal
        ? ofChunks(n, d, middles[1])
        : inARow([["k2", n, d], ["v2", d, n], ["sums", d, d], ["q2", d, n]], middles[1]);
      const [within, before] = causal ? chunked(lower[0].x, lower[0].y, n, chunk) : ["", ""];
      lower.forEach((shape) => place(shape, shape.role === "pairs2" ? within : undefined));
      one("before").setAttribute("d", before);
      ["k2", "v2", "q2"].forEach((role) => {
        one(`${role}-label`).textContent = causal ? "" : one(`${role}-label`).dataset.name;
        if (causal) one(role).setAttribute("d", "");
      });
      if (!causal) one("pairs2").setAttribute("d", "");
      one("pairs2-label").textContent = causal ? `pairs in chunks of ${chunk}` : "";
      one("state-label").textContent = causal ? `state, in ${steps} step${steps > 1 ? "s" : ""}` : "";
      one("sums-label").textContent = causal ? "" : "d × d";
      one("sums-title").textContent = causal ? "sums first, causal: chunk by chunk" : "sums first: Q(KᵀV)";

      const pairs = 4 * n * n * d;
      const sums = 4 * n * d * d + (causal ? 4 * n * chunk * d : 0);
      const kept = d * d + (causal ? chunk * chunk : 0);
      const most = Math.max(pairs, sums);
      bar("pairs", pairs, most, n * n);
      bar("sums", sums, most, kept);

      one("n-output").textContent = n;
      one("d-output").textContent = d;
      one("chunk-output").textContent = causal ? chunk : "not causal";
      inputs.chunk.setAttribute("aria-valuetext", causal ? `causal, ${chunk} tokens per chunk` : "not causal");
      const ratio = pairs / sums;
      const compared = Math.abs(ratio - 1) < 0.005
        ? "both take the same"
        : `sums first takes ${(ratio > 1 ? ratio : 1 / ratio).toFixed(1)} times ${ratio > 1 ? "fewer" : "as many"}`;
      const message = `n = ${n}, d = ${d}${causal ? `, causal in chunks of ${chunk}` : ""}. ` +
        `Pairs first: ${many(pairs)} operations and a matrix of ${many(n * n)} numbers. ` +
        `Sums first: ${many(sums)} operations and ${many(kept)} numbers; ${compared}.`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      Object.values(inputs).forEach((input) => { input.value = input.defaultValue; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="linear"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
