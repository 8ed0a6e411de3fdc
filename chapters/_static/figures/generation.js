/* Eight tokens on their way from logits to what is drawn: temperature, top-k and top-p, each with its own panel. */
(() => {
  "use strict";

  const LOGITS = [3.0, 2.5, 2.0, 1.5, 1.0, 0.4, -0.4, -1.5];
  const FULL = 58; // height of a probability of 1
  const FLOOR = [90, 218, 346]; // y of the panels' base lines
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  function softmax(logits) {
    const top = Math.max(...logits);
    const exps = logits.map((logit) => Math.exp(logit - top));
    return exps.map((exp) => exp / sum(exps));
  }

  // The tokens stand in descending order, so a filter keeps the first few of them.
  const steps = {
    temperature: (logits, { temperature }) => logits.map((logit) => logit / temperature),
    topK: (logits, { k }) => logits.map((logit, i) => (i < k ? logit : -Infinity)),
    topP: (logits, { p }) => {
      let before = 0;
      return softmax(logits).map((share, i) => {
        const kept = before < p - 1e-9 || i === 0;
        before += share;
        return kept ? logits[i] : -Infinity;
      });
    },
  };

  function titles(settings) {
    return {
      temperature: `logits divided by ${settings.temperature.toFixed(1)}`,
      topK: settings.k === LOGITS.length ? "top-k is off" : `top-k: the first ${settings.k} stay`,
      topP: settings.p === 1 ? "top-p is off" : `top-p: until ${settings.p.toFixed(2)} is reached`,
    };
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const inputs = ["temperature", "k", "p"].map((name) => one(`${name}-input`));
    const last = one("last-input");
    let speak = 0;

    function panel(place, title, before, after, together) {
      const [old, now] = [softmax(before), softmax(after)];
      let reached = 0;
      all("title")[place].textContent = `${place + 1}. ${title}`;
      now.forEach((share, i) => {
        const kept = after[i] > -Infinity;
        const out = before[i] === -Infinity;
        const height = Math.max((kept ? share : old[i]) * FULL, 0.5);
        const bar = all(`bar-${place}`)[i];
        bar.setAttribute("y", (FLOOR[place] - height).toFixed(1));
        bar.setAttribute("height", height.toFixed(1));
        bar.setAttribute("class", kept ? "weight" : "slot");
        const text = all(`share-${place}`)[i];
        text.setAttribute("y", (FLOOR[place] - height - 4).toFixed(1));
        text.textContent = kept ? share.toFixed(2) : out ? "" : "0";
        all(`word-${place}`)[i].classList.toggle("muted", !kept);
        reached += old[i];
        all(`sum-${place}`)[i].textContent = together && !out ? reached.toFixed(2) : "";
      });
      all("together")[place].textContent = together ? "sums" : "";
    }

    function draw() {
      const [temperature, k, p] = inputs.map((input) => Number(input.value));
      const settings = { temperature, k, p };
      const order = last.checked ? ["topK", "topP", "temperature"] : ["temperature", "topK", "topP"];
      let logits = LOGITS;
      order.forEach((step, place) => {
        const next = steps[step](logits, settings);
        panel(place, titles(settings)[step], logits, next, step === "topP");
        logits = next;
      });
      [temperature.toFixed(1), k === LOGITS.length ? "off" : k, p === 1 ? "off" : p.toFixed(2)].forEach((text, i) => {
        all("setting-output")[i].textContent = text;
        inputs[i].setAttribute("aria-valuetext", text);
      });
      const shares = softmax(logits);
      const kept = logits.filter((logit) => logit > -Infinity).length;
      const words = all("word-2").map((word) => word.textContent);
      const message =
        `${kept} of ${LOGITS.length} tokens can be drawn. “${words[0]}” has ${shares[0].toFixed(2)}` +
        (kept > 1 ? `, “${words[kept - 1]}”, the last that stays, ${shares[kept - 1].toFixed(2)}.` : ": nothing is left to chance.");
      clearTimeout(speak); // a dragged slider should be announced once, when it rests
      speak = setTimeout(() => { one("live").textContent = message; }, 250);
    }

    one("reset").addEventListener("click", () => {
      inputs.forEach((input) => { input.value = input.defaultValue; });
      last.checked = false;
      draw();
    });
    figure.addEventListener("input", draw);
    figure.classList.add("is-live");
    draw();
  }

  const startAll = () => document.querySelectorAll('[data-figure="generation"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
