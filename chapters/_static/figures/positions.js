/* Two positions on four dials. As waves the hands are the positions themselves; rotary, they are a query and a key. */
(() => {
  "use strict";

  const BASE = 100;
  const PAIRS = 4;
  const LENGTH = 28; // of a hand of length 1, in the picture
  const UNIT = 34; // of a dot product of 1, in the bar
  const ZERO = 196; // where the bar begins
  // Length and direction of each pair of a query and of a key, before they are turned.
  const QUERY = [[1, 0.4], [0.8, 1.5], [0.9, -0.5], [0.7, 0.2]];
  const KEY = [[0.9, 1.0], [1, 1.1], [0.8, -1.0], [0.9, 0.7]];
  const STILL = Array.from({ length: PAIRS }, () => [1, 0]);

  const shown = (number, digits = 2) => number.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1").replace("-", "−");

  // The pairs of `arrows`, turned as the position asks.
  function turned(arrows, position) {
    return arrows.map(([length, direction], i) => {
      const angle = direction + position / BASE ** (i / PAIRS);
      return { x: length * Math.cos(angle), y: length * Math.sin(angle), angle };
    });
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    let speak = 0;

    function drawRow(role, hands, waves) {
      // A wave's columns are sine and cosine; a rotary pair's are the two coordinates in their order.
      const numbers = hands.flatMap(({ x, y }) => (waves ? [y, x] : [x, y]));
      numbers.forEach((number, j) => {
        const cell = all(`${role}-cell`)[j];
        cell.setAttribute("class", number < 0 ? "score" : "weight");
        cell.setAttribute("fill-opacity", (Math.abs(number) / 2).toFixed(2));
        all(`${role}-number`)[j].textContent = shown(number, 1);
      });
      hands.forEach(({ x, y }, i) => {
        const [right, down] = [(LENGTH * x).toFixed(1), (-LENGTH * y).toFixed(1)];
        all(`${role}-hand`)[i].setAttribute("x2", right);
        all(`${role}-hand`)[i].setAttribute("y2", down);
        all(`${role}-tip`)[i].setAttribute("transform", `translate(${right} ${down})`);
      });
    }

    function draw() {
      const waves = one("mode-input").checked;
      const place = Number(one("place-input").value);
      const shift = Number(one("shift-input").value);
      const stuck = one("stuck-input").checked;
      const keyPlace = stuck ? 0 : place + shift;
      const queries = turned(waves ? STILL : QUERY, place);
      const keys = turned(waves ? STILL : KEY, keyPlace);
      const score = queries.reduce((sum, hand, i) => sum + hand.x * keys[i].x + hand.y * keys[i].y, 0);

      drawRow("query", queries, waves);
      drawRow("key", keys, waves);
      all("turn").forEach((text, i) => {
        const degrees = Math.round(((keys[i].angle - queries[i].angle) * 180) / Math.PI);
        text.textContent = `${shown(degrees, 0)}°`;
      });
      all("first").forEach((text) => { text.textContent = waves ? "sin" : "2i"; });
      all("second").forEach((text) => { text.textContent = waves ? "cos" : "2i+1"; });
      one("query-label").textContent = `at ${place}`;
      one("key-label").textContent = `at ${shown(keyPlace, 0)}`;
      one("place-output").textContent = String(place);
      one("shift-output").textContent = shown(shift, 0);
      const name = waves ? "dot product" : "score q · k";
      one("score-text").textContent = `${name} ${shown(score)}`;
      one("bar").setAttribute("x", (ZERO + Math.min(0, UNIT * score)).toFixed(1));
      one("bar").setAttribute("width", Math.max(0.5, Math.abs(UNIT * score)).toFixed(1));

      const where = `The query stands at ${place}, the key at ${keyPlace}.`;
      const message = `${where} The ${name} is ${shown(score)}. ` +
        (stuck ? "It changes with p." : `It is the same for every p as long as k is ${shift}.`);
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      figure.querySelectorAll("input").forEach((input) => {
        if (input.type === "range") input.value = input.defaultValue;
        else input.checked = input.defaultChecked;
      });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="positions"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
