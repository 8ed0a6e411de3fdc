/* Attention tile by tile: six queries, six keys, and what each query carries from one tile to the next. */
(() => {
  "use strict";

  const N = 6;
  const VALUES = [8, 0, 4, 2, 6, 1];
  const PAUSE = 1100; // milliseconds a step while it plays

  const visible = (query, key, causal) => !causal || key <= query;
  const short = (number) => {
    if (number === -Infinity) return "−∞";
    const text = Math.abs(number) >= 100 ? number.toFixed(0) : String(Number(number.toPrecision(3)));
    return text.replace("-", "−");
  };

  /** The tiles in the order in which they are visited: all keys for the first queries, then the next queries. */
  function tilesOf(size, causal) {
    const tiles = [];
    for (let first = 0; first < N; first += size) {
      for (let start = 0; start < N; start += size) {
        const rows = { from: first, to: Math.min(first + size, N) };
        const columns = { from: start, to: Math.min(start + size, N) };
        if (visible(rows.to - 1, columns.from, causal)) tiles.push({ rows, columns });
      }
    }
    return tiles;
  }

  /** One query meets the keys of one tile: scores count in units of ln 2, so that exp is a power of two. */
  function meet(state, scores, columns, query, { causal, rescales }) {
    const keys = [];
    for (let key = columns.from; key < columns.to; key += 1) if (visible(query, key, causal)) keys.push(key);
    const max = Math.max(state.max, ...keys.map((key) => scores[key]));
    const carried = state.sum === 0 ? 1 : 2 ** (state.max - max);
    const weight = (key) => 2 ** (scores[key] - max);
    return {
      max,
      carried,
      sum: state.sum * carried + keys.reduce((total, key) => total + weight(key), 0),
      output: state.output * (rescales ? carried : 1) + keys.reduce((total, key) => total + weight(key) * VALUES[key], 0),
    };
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const cells = all("cell");
    const scores = [...Array(N).keys()].map((query) =>
      cells.slice(N * query, N * (query + 1)).map((cell) => Number(cell.dataset.score)));
    const slider = one("step");
    let speak = 0;
    let playing = 0;

    function run(tiles, options) {
      const states = scores.map(() => ({ max: -Infinity, sum: 0, output: 0, carried: 1 }));
      const grown = [];
      tiles.forEach(({ rows, columns }, place) => {
        for (let query = rows.from; query < rows.to; query += 1) {
          const before = states[query];
          states[query] = meet(before, scores[query], columns, query, options);
          if (place === tiles.length - 1 && before.sum && states[query].max > before.max) {
            grown.push({ query, from: before.max, to: states[query].max });
          }
        }
      });
      return { states, grown };
    }

    function draw() {
      const size = Number(one("size").value);
      const options = { causal: one("causal").checked, rescales: !one("forgets").checked };
      const tiles = tilesOf(size, options.causal);
      slider.max = String(tiles.length);
      const step = Number(slider.value);
      const done = tiles.slice(0, step);
      const now = done[step - 1];
      const { states, grown } = run(done, options);
      const { states: right } = run(done, { ...options, rescales: true });
      const inside = (range, place) => place >= range.from && place < range.to;
      const visited = (query, key) => done.some(({ rows, columns }) => inside(rows, query) && inside(columns, key));

      cells.forEach((cell, place) => {
        const [query, key] = [Math.floor(place / N), place % N];
        const current = Boolean(now) && inside(now.rows, query) && inside(now.columns, key);
        const hidden = !visible(query, key, options.causal);
        cell.children[0].setAttribute("fill-opacity", current ? 0.3 : 0);
        cell.children[1].setAttribute("visibility", hidden ? "visible" : "hidden");
        cell.children[2].setAttribute("visibility", current && !hidden ? "visible" : "hidden");
        cell.children[3].setAttribute("visibility", !current && !hidden && visited(query, key) ? "visible" : "hidden");
      });
      const frame = one("frame");
      frame.setAttribute("visibility", now ? "visible" : "hidden");
      if (now) {
        frame.setAttribute("x", 50 + 30 * now.columns.from);
        frame.setAttribute("y", 58 + 28 * now.rows.from);
        frame.setAttribute("width", 30 * (now.columns.to - now.columns.from));
        frame.setAttribute("height", 28 * (now.rows.to - now.rows.from));
      }
      states.forEach(({ max, sum, output }, query) => {
        const ready = sum > 0;
        const active = Boolean(now) && inside(now.rows, query);
        const wrong = ready && Math.abs(output - right[query].output) > 1e-9;
        const write = (role, text, bad = false) => {
          const label = all(role)[query];
          label.textContent = text;
          label.classList.toggle("strong", active);
          label.classList.toggle("bad", bad);
        };
        write("max", ready ? short(max) : "−∞");
        write("sum", ready ? short(sum) : "0");
        write("output", ready ? short(output / sum) : "0", wrong);
      });

      const pairs = size * size;
      one("held").textContent = `in memory at once: ${pairs} of ${N * N} scores`;
      one("step-output").textContent = `${step} of ${tiles.length}`;
      one("size-output").textContent = `${size} × ${size}`;
      one("back").disabled = step === 0;
      one("next").disabled = step === tiles.length;

      const span = (range) => (range.to - range.from === 1 ? `${range.from + 1}` : `${range.from + 1} to ${range.to}`);
      let message = "Nothing has been seen yet.";
      if (now) {
        message = `Queries ${span(now.rows)} meet keys ${span(now.columns)}. `;
        message += grown.length
          ? grown.map(({ query, from, to }) =>
            `The maximum of query ${query + 1} grows from ${short(from)} to ${short(to)}: ` +
            `${options.rescales ? "its sum and output are" : "its sum is"} first divided by ${short(2 ** (to - from))}.`).join(" ")
          : "No maximum grows that was there before.";
        const off = states.filter(({ output, sum }, query) => sum && Math.abs(output - right[query].output) > 1e-9).length;
        if (off) message += ` Wrong outputs: ${off}.`;
      }
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    function move(by) {
      slider.value = String(Number(slider.value) + by);
      draw();
    }

    function stop() {
      clearInterval(playing);
      playing = 0;
      one("play").textContent = "Play";
    }

    one("back").addEventListener("click", () => { stop(); move(-1); });
    one("next").addEventListener("click", () => { stop(); move(1); });
    one("play").addEventListener("click", () => {
      if (playing) {
        stop();
        return;
      }
      if (slider.value === slider.max) slider.value = "0";
      one("play").textContent = "Pause";
      move(1);
      playing = setInterval(() => {
        if (slider.value === slider.max) stop();
        else move(1);
      }, PAUSE);
    });
    one("reset").addEventListener("click", () => {
      stop();
      for (const input of figure.querySelectorAll("input")) {
        input.value = input.defaultValue;
        input.checked = input.defaultChecked;
      }
      draw();
    });
    // Whoever asks for less motion steps by hand.
    one("play").hidden = matchMedia("(prefers-reduced-motion: reduce)").matches;
    figure.addEventListener("input", () => { stop(); draw(); });
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="flash"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
