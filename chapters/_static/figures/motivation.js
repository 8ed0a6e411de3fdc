/* A gap at the end of a sentence: what reaches it of each word, by a window, by a recurrence and by attention. */
(() => {
  "use strict";

  const SUBJECT = 1; // the row of the word that decides
  const [TOP, STEP, FULL] = [34, 20, 54]; // the first row, the next one, the length of a share of 1
  const normalised = (numbers) => {
    const total = numbers.reduce((partial, number) => partial + number, 0);
    return numbers.map((number) => number / total);
  };

  function start(figure) {
    const all = (role, within = figure) => [...within.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const rows = all("row");
    const scores = rows.map((row) => Number(row.dataset.score));
    const inputs = ["phrases", "radius", "keep", "temperature"].map((name) => one(`${name}-input`));
    let speak = 0;

    function draw() {
      const [phrases, radius, keep, temperature] = inputs.map((input) => Number(input.value));
      const seen = scores.slice(0, 2 + 3 * phrases);
      const back = (i) => seen.length - i; // words from the gap to word i
      const shares = [
        normalised(seen.map((_, i) => Number(back(i) <= radius))),
        normalised(seen.map((_, i) => keep ** back(i))),
        normalised(seen.map((score) => Math.exp(score / temperature))),
      ];

      rows.forEach((row, i) => {
        row.setAttribute("visibility", i < seen.length ? "visible" : "hidden");
        shares.forEach((share, tool) => {
          all("bar", row)[tool].setAttribute("width", (FULL * (share[i] ?? 0)).toFixed(1));
          all("share", row)[tool].textContent = (share[i] ?? 0).toFixed(2);
        });
      });
      const end = TOP + STEP * seen.length;
      one("gap").setAttribute("transform", `translate(0 ${end})`);
      all("axis").forEach((axis) => axis.setAttribute("y2", end - STEP / 2));
      one("phrases-output").textContent = phrases;
      one("radius-output").textContent = radius;
      one("keep-output").textContent = keep.toFixed(2);
      one("temperature-output").textContent = temperature.toFixed(2);

      const [byWindow, byRecurrence, byAttention] = shares.map((share) => share[SUBJECT].toFixed(2));
      const [distance, next] = [back(SUBJECT), rows[seen.length - 1].querySelector("text").textContent];
      const nearest = shares[1].at(-1).toFixed(2);
      const message = `“letters” stands ${distance} ${distance > 1 ? "words" : "word"} back. Of what arrives, ` +
        `its share is ${byWindow} by the window, ${byRecurrence} by the recurrence, ${byAttention} by attention.` +
        (distance > 1 ? ` The recurrence gives ${nearest} to “${next}”, the nearest.` : "");
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      inputs.forEach((input) => { input.value = input.defaultValue; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="motivation"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
