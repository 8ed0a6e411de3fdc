/* A block as a diagram: the stream runs upwards, sublayers stand beside it, and every tensor has its shape. */
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const MEMORY = 96; // tokens of the encoder, for the decoder to read
  const [STREAM, BOTTOM, TOP] = [34, 404, 46]; // x of the stream, y of its ends
  const shape = (...sizes) => `(${sizes.join(", ")})`;
  const grouped = (number) => number.toLocaleString("en");

  // What a block is made of, from the bottom up: name, what is inside, its parameters, its numbers in the weights.
  function sublayers({ batch, n, width, heads, inside }, decoder) {
    const attention = (name, keys) => ({
      name, keys, inside: `weights ${shape(batch, heads, n, keys)}`, weights: batch * heads * n * keys,
      parameters: 4 * (width * width + width),
    });
    const network = {
      name: "feed-forward", inside: `inside ${shape(batch, n, inside)}`, weights: 0,
      parameters: 2 * width * inside + inside + width,
    };
    const own = attention("self-attention", n);
    return decoder ? [own, { ...attention("attention", MEMORY), reads: true }, network] : [own, network];
  }

  function start(figure) {
    const one = (role) => figure.querySelector(`[data-role="${role}"]`);
    const inputs = [...figure.querySelectorAll("input")];
    const drawing = one("drawing");
    let speak = 0;

    function add(tag, attributes, text) {
      const element = drawing.appendChild(document.createElementNS(SVG, tag));
      Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
      if (text !== undefined) element.textContent = text;
    }
    const write = (x, y, kind, text) => add("text", { class: kind, x, y }, text);
    const road = (d) => add("path", { class: "road", d });
    const arrow = (x, y, way) => add("path", {
      class: "arrow", d: { up: "M-4 4L0 -3L4 4Z", right: "M-4 -4L3 0L-4 4Z", left: "M4 -4L-3 0L4 4Z" }[way],
      transform: `translate(${x} ${y})`,
    });

    function box(x, y, width, text) {
      add("rect", { class: "box", x, y: y - 13, width, height: 26, rx: 4 });
      write(x + width / 2, y + 4, "strong middle", text);
    }

    function drawSublayer(part, y, height, first, sizes) {
      const [entrance, sum] = [y - 0.2 * height, y - 0.62 * height];
      road(`M${STREAM} ${entrance}H144`);
      if (first) box(66, entrance, 54, "norm");
      arrow(140, entrance, "right");
      box(144, entrance, 112, part.name);
      write(144, entrance + 28, "small", part.inside);
      if (part.reads) {
        road(`M284 ${entrance}H260`);
        arrow(261, entrance, "left");
        add("rect", { class: "key", x: 286, y: entrance - 5, width: 10, height: 10 });
        add("path", { class: "value", d: "M0 -1L1 0L0 1L-1 0Z", transform: `translate(307 ${entrance}) scale(7)` });
        write(334, entrance - 14, "small end", "memory");
      }
      road(`M200 ${entrance - 13}V${sum}H${STREAM + 12}`);
      arrow(STREAM + 14, sum, "left");
      add("circle", { class: "box", cx: STREAM, cy: sum, r: 9 });
      add("path", { class: "road", d: `M${STREAM - 5} ${sum}h10M${STREAM} ${sum - 5}v10` });
      if (!first) box(STREAM - 27, sum - 0.22 * height, 54, "norm");
      write(STREAM + 34, sum - 0.22 * height + 4, "small muted", shape(sizes.batch, sizes.n, sizes.width));
    }

    function read() {
      const at = (role) => Number(one(`${role}-input`).value);
      const width = at("width");
      return { batch: at("batch"), n: at("n"), width, heads: 2 ** at("heads"), inside: at("inside") * width };
    }

    function draw() {
      const sizes = read();
      const first = one("pre").checked;
      const decoder = one("decoder").checked;
      const parts = sublayers(sizes, decoder);
      const height = (BOTTOM - TOP) / parts.length;
      const stream = shape(sizes.batch, sizes.n, sizes.width);
      const parameters = parts.reduce((sum, part) => sum + part.parameters + 2 * sizes.width, 0);
      const weights = parts.reduce((sum, part) => sum + part.weights, 0);

      drawing.replaceChildren();
      add("path", { class: "stream", d: `M${STREAM} ${BOTTOM + 8}V${TOP - 14}` });
      arrow(STREAM, TOP - 14, "up");
      parts.forEach((part, place) => drawSublayer(part, BOTTOM - place * height, height, first, sizes));
      write(STREAM - 24, BOTTOM + 26, "strong", `x ${stream}`);
      if (decoder) write(334, BOTTOM + 26, "small end", `memory ${shape(sizes.batch, MEMORY, sizes.width)}`);
      write(6, TOP - 28, "strong", `out ${stream}`);
      write(334, 16, "small end", `parameters: ${grouped(parameters)}`);
      write(334, 34, "small end", `attention weights: ${grouped(weights)}`);

      Object.entries(sizes).forEach(([name, value]) => { one(`${name}-output`).textContent = value; });
      one("heads-input").setAttribute("aria-valuetext", `${sizes.heads} heads of width ${sizes.width / sizes.heads}`);
      one("inside-input").setAttribute("aria-valuetext", `d_ff is ${sizes.inside}`);
      const inner = parts.map((part) => `${part.name}${part.reads ? " to the memory" : ""}: ${part.inside}`).join("; ");
      const message = `${decoder ? "Decoder" : "Encoder"} block, ${first ? "pre" : "post"}-norm. The stream is ${stream} all ` +
        `the way. ${inner}. ${grouped(parameters)} parameters, ${grouped(weights)} attention weights.`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      inputs.forEach((input) => {
        input.value = input.defaultValue;
        input.checked = input.defaultChecked;
      });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="transformer"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
