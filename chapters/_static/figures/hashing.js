/* A query among keys in the plane; around them one ring of buckets for each round. Who shares a sector is found. */
(() => {
  "use strict";

  const CENTRE = [170, 168]; // in SVG units
  const REACH = 82; // the farthest a vector reaches
  const RING = { inner: 92, widest: 20, all: 72 }; // however many rounds, they fit
  const MOST_ROUNDS = 6;
  const NEAR = 25; // degrees
  const MANY = 100; // draws of the second button
  const STEP = 4; // of an arrow key; Shift makes it five times as long
  const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  const degrees = ([x, y]) => ((Math.atan2(y, x) * 180) / Math.PI + 360) % 360;
  const apart = (one, other) => Math.abs(((one - other + 540) % 360) - 180);
  const bucket = (angle, turn, width) => Math.floor(((angle - turn + 360) % 360) / width);
  const percent = (share) => `${Math.round(100 * share)} %`;

  function at(angle, radius) {
    const radians = (angle * Math.PI) / 180;
    return `${(CENTRE[0] + radius * Math.cos(radians)).toFixed(1)} ${(CENTRE[1] - radius * Math.sin(radians)).toFixed(1)}`;
  }

  // A sector of a ring, from one angle on, counter-clockwise.
  function sector(from, width, inner, outer) {
    const large = width > 180 ? 1 : 0;
    return `M${at(from, inner)}A${inner} ${inner} 0 ${large} 0 ${at(from + width, inner)}` +
      `L${at(from + width, outer)}A${outer} ${outer} 0 ${large} 1 ${at(from, outer)}Z`;
  }

  // A generator of its own, so that the picture without JavaScript is the picture that it starts with.
  function uniformNumbers(seed) {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const keys = all("key").map((element) => element.dataset.at.split(" ").map(Number));
    const angles = keys.map(degrees);
    const bucketsInput = one("buckets-input");
    const roundsInput = one("rounds-input");
    const handle = one("query");
    const home = handle.dataset.at.split(" ").map(Number);
    let query = home;
    let uniform = uniformNumbers(7);
    let turns = [];
    let tally = { draws: 0, found: 0 };
    let speak = 0;

    const settings = () => ({ buckets: 2 ** Number(bucketsInput.value), rounds: Number(roundsInput.value) });

    function meets(angle, width, rounds) {
      return turns.slice(0, rounds).some((turn) => bucket(angle, turn, width) === bucket(degrees(query), turn, width));
    }

    const nearOnes = () => angles.filter((angle) => apart(angle, degrees(query)) <= NEAR);

    // Each draw turns the borders of all rounds; the share of near keys found is kept.
    function draw(times) {
      const { buckets, rounds } = settings();
      for (let i = 0; i < times; i++) {
        turns = Array.from({ length: MOST_ROUNDS }, () => 360 * uniform());
        count(360 / buckets, rounds);
      }
    }

    function count(width, rounds) {
      const near = nearOnes();
      if (near.length === 0) return;
      tally.draws += 1;
      tally.found += near.filter((angle) => meets(angle, width, rounds)).length / near.length;
    }

    function show() {
      const { buckets, rounds } = settings();
      const width = 360 / buckets;
      const direction = degrees(query);
      const near = nearOnes();
      const theory = near.map((angle) => 1 - (1 - Math.max(0, 1 - apart(angle, direction) / width)) ** rounds);
      const expected = theory.reduce((sum, share) => sum + share, 0) / Math.max(near.length, 1);

      handle.setAttribute("transform", `translate(${CENTRE[0] + query[0]} ${CENTRE[1] - query[1]})`);
      handle.setAttribute("aria-valuenow", Math.round(direction));
      handle.setAttribute("aria-valuetext", `at ${Math.round(direction)} degrees`);
      one("wedge").setAttribute("d", `M${CENTRE.join(" ")}L${at(direction - NEAR, RING.inner)}` +
        `A${RING.inner} ${RING.inner} 0 0 0 ${at(direction + NEAR, RING.inner)}Z`);

      const thick = Math.min(RING.widest, RING.all / rounds);
      for (let round = 0; round < MOST_ROUNDS; round++) {
        const inner = RING.inner + thick * round;
        const outer = inner + thick - 2;
        const drawn = round < rounds;
        const turn = turns[round];
        const borders = Array.from({ length: drawn ? buckets : 0 }, (_, i) => sector(turn + i * width, width, inner, outer));
        all("ring")[round].setAttribute("d", borders.join(""));
        const from = turn + width * bucket(direction, turn, width);
        all("sector")[round].setAttribute("d", drawn ? sector(from, width, inner, outer) : "");
      }

      let found = 0;
      let foundNear = 0;
      angles.forEach((angle, i) => {
        const met = meets(angle, width, rounds);
        const isNear = apart(angle, direction) <= NEAR;
        found += met;
        foundNear += met && isNear;
        all("key")[i].classList.toggle("hollow", !met);
        all("miss")[i].textContent = isNear && !met ? "✕" : "";
        // Where the direction of a near key crosses the rings.
        const [x, y] = at(angle, isNear ? RING.inner + thick * rounds - 2 : 0).split(" ");
        all("foot")[i].setAttribute("x2", x);
        all("foot")[i].setAttribute("y2", y);
      });

      const shares = `${percent(expected)} in theory, ${percent(tally.found / Math.max(tally.draws, 1))} in ${tally.draws} draw${tally.draws === 1 ? "" : "s"}`;
      one("near-text").textContent = near.length ? `near keys found: ${foundNear} of ${near.length}` : "no key is near";
      one("share-text").textContent = near.length ? shares : "";
      one("all-text").textContent = `compared: ${found} of ${keys.length} keys`;
      one("buckets-output").textContent = buckets;
      bucketsInput.setAttribute("aria-valuetext", `${buckets} buckets`);
      one("rounds-output").textContent = rounds;
      const message = `Query at ${Math.round(direction)}°, ${buckets} buckets of ${width}°, ${rounds} round${rounds > 1 ? "s" : ""}. ` +
        (near.length ? `It finds ${foundNear} of ${near.length} near keys; ${shares}. ` : "No key is near. ") +
        `It is compared with ${found} of ${keys.length} keys.`;
      clearTimeout(speak); // a dragged query should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    // What was counted for another query, or other buckets, is no share of this one.
    function changed() {
      const { buckets, rounds } = settings();
      tally = { draws: 0, found: 0 };
      count(360 / buckets, rounds);
      show();
    }

    function moveTo([x, y]) {
      const length = Math.hypot(x, y) || 1;
      const kept = Math.min(REACH, Math.max(length, 20)); // the zero vector has no bucket
      query = [Math.round((x / length) * kept), Math.round((y / length) * kept)];
      changed();
    }

    function moveToPointer(event) {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(handle.parentNode.getScreenCTM().inverse());
      moveTo([x - CENTRE[0], CENTRE[1] - y]);
    }

    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) moveToPointer(event);
    });
    handle.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault(); // or the page scrolls away
      moveTo(query.map((length, axis) => length + arrow[axis] * (event.shiftKey ? 5 : 1)));
    });
    one("again").addEventListener("click", () => { draw(1); show(); });
    one("many").addEventListener("click", () => { draw(MANY); show(); });
    one("reset").addEventListener("click", () => {
      [bucketsInput, roundsInput].forEach((input) => { input.value = input.defaultValue; });
      query = home;
      uniform = uniformNumbers(7);
      tally = { draws: 0, found: 0 };
      draw(1);
      show();
    });
    figure.addEventListener("input", changed);
    figure.classList.add("is-live");
    draw(1);
    show();
  }

  const startAll = () => document.querySelectorAll('[data-figure="hashing"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
