/* Five scores become weights: with the shift by the maximum, and without it in float32. */
(() => {
  "use strict";

  const FLOOR = 372; // y of the weights' base line
  const FULL = 86; // height of a weight of 1
  const ZERO = 82; // y of the scores' zero line
  const UNIT = 11; // height of a score of 1
  const GAUGE = { left: 104, right: 318 };
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const short = (number) => (Number.isFinite(number) ? number.toPrecision(2).replace("e+", "e").replace("-", "−") : "inf");
  const signed = (number, digits) => number.toFixed(digits).replace("-", "−");

  function shiftedWeights(scores, temperature) {
    const top = Math.max(...scores);
    const exps = scores.map((score) => Math.exp((score - top) / temperature));
    return exps.map((exp) => exp / sum(exps));
  }

  // Math.fround after every operation is float32 arithmetic, overflow to Infinity included.
  function naiveFloat32(scores, temperature) {
    const exps = scores.map((score) => Math.fround(Math.exp(Math.fround(score / temperature))));
    const total = exps.reduce((partial, exp) => Math.fround(partial + exp), 0);
    return { exps, weights: exps.map((exp) => Math.fround(exp / total)) };
  }

  function verdict({ exps, weights }, right) {
    if (exps.includes(Infinity)) return "Without the shift, float32 overflows.";
    if (weights.some(Number.isNaN)) return "Without the shift, float32 underflows: every exponential is 0, and so is their sum.";
    const worst = Math.max(...weights.map((weight, i) => Math.abs(weight - right[i])));
    if (worst > 0.0005) return "Without the shift, float32 has too few digits left: the weights are wrong.";
    return "Without the shift, float32 gives the same weights.";
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const sliders = all("score-input");
    const temperatureInput = one("temperature-input");
    const shiftInput = one("shift-input");
    let speak = 0;

    function bar(rect, base, height) {
      rect.setAttribute("y", Math.min(base, base - height).toFixed(1));
      rect.setAttribute("height", Math.max(Math.abs(height), 0.5).toFixed(1));
    }

    function number(text, content, bad = false) {
      text.textContent = content;
      text.classList.toggle("bad", bad);
    }

    function draw() {
      const temperature = 10 ** Number(temperatureInput.value);
      const shift = Number(shiftInput.value);
      const own = sliders.map((slider) => Number(slider.value));
      const scores = own.map((score) => score + shift);
      const weights = shiftedWeights(scores, temperature);
      const naive = naiveFloat32(scores, temperature);
      const entropy = -sum(weights.filter((w) => w > 0).map((w) => w * Math.log(w)));
      const most = Math.log(own.length);

      own.forEach((score, i) => {
        bar(all("score-bar")[i], ZERO, score * UNIT);
        const label = all("score-text")[i];
        label.setAttribute("y", ZERO - score * UNIT + (score < 0 ? 15 : -5));
        number(label, signed(scores[i], 1));
        number(all("exp-text")[i], short(naive.exps[i]), !Number.isFinite(naive.exps[i]));
        const lost = Number.isNaN(naive.weights[i]);
        number(all("naive-text")[i], lost ? "NaN" : naive.weights[i].toFixed(3), lost);
        bar(all("weight-bar")[i], FLOOR, weights[i] * FULL);
        all("weight-text")[i].setAttribute("y", (FLOOR - weights[i] * FULL - 5).toFixed(1));
        number(all("weight-text")[i], weights[i].toFixed(3));
        all("score-output")[i].textContent = signed(score, 1);
      });
      one("shift-text").textContent = `c = ${signed(shift, 0)}`;
      one("gauge").setAttribute("cx", (GAUGE.left + (entropy / most) * (GAUGE.right - GAUGE.left)).toFixed(1));
      one("entropy-text").textContent = `entropy ${entropy.toFixed(2)}`;
      one("temperature-output").textContent = temperature.toPrecision(2);
      one("shift-output").textContent = signed(shift, 0);
      temperatureInput.setAttribute("aria-valuetext", temperature.toPrecision(2));

      const winner = weights.indexOf(Math.max(...weights));
      const message =
        `Largest weight ${weights[winner].toFixed(3)} on key ${winner + 1}. ` +
        `Entropy ${entropy.toFixed(2)} of at most ${most.toFixed(2)}. ${verdict(naive, weights)}`;
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      [...sliders, temperatureInput, shiftInput].forEach((input) => { input.value = input.defaultValue; });
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="softmax"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
