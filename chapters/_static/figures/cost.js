/* The key-value cache of four kinds of attention: how many heads each keeps, and how its bytes grow with the text. */
(() => {
  "use strict";

  const ITEM = 2; // bytes of a number in half precision
  const LATENT = 512 + 64; // numbers a token and layer that DeepSeek-V2 keeps: the latent, and a rotary key beside it
  const [MOST, FULL] = [100e9, 320]; // bytes at the right end of a bar, and where that is
  const [LEFT, STEP] = [8, 5]; // the first head, and the next one

  function spoken(bytes) {
    const [unit, size] = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]].find(([, least]) => bytes >= least);
    return `${Number((bytes / size).toPrecision(3))} ${unit}`;
  }

  function start(figure) {
    const all = (role) => [...figure.querySelectorAll(`[data-role="${role}"]`)];
    const one = (role) => all(role)[0];
    const inputs = ["tokens", "layers", "heads", "groups", "width"].map((name) => one(`${name}-input`));
    const shapes = { keys: "h4v6h-4z", values: "l2 -3l2 3l-2 3z" }; // a square and a diamond
    let speak = 0;

    function row(path, number, shape) {
      const each = (_, h) => `M${LEFT + STEP * h} ${path.dataset.top}${shape}`;
      path.setAttribute("d", Array.from({ length: number }, each).join(""));
    }

    function draw() {
      const [power, layers, headPower, groupPower, width] = inputs.map((input) => Number(input.value));
      const tokens = Math.round(2 ** power);
      const heads = 2 ** headPower;
      const groups = Math.min(2 ** groupPower, heads);
      const kept = [heads, groups, 1];
      const perToken = [...kept.map((number) => 2 * number * width), LATENT].map((numbers) => numbers * layers * ITEM);
      const sizes = perToken.map((bytes) => bytes * tokens);

      sizes.forEach((bytes, i) => {
        all("size")[i].textContent = bytes > MOST ? `${spoken(bytes)} →` : spoken(bytes);
        all("bar")[i].setAttribute("width", Math.max(0.5, Math.min(1, bytes / MOST) * FULL).toFixed(1));
      });
      kept.forEach((number, i) => {
        Object.entries(shapes).forEach(([role, shape]) => row(all(role)[i], number, shape));
        all("kept")[i].setAttribute("x", LEFT + STEP * number + 6);
        all("kept")[i].textContent = number > 32 ? "" : `${number} × keys, values`;
      });
      one("token").textContent = `${perToken[0].toLocaleString("en")} bytes a token with multi-head attention`;
      const settings = [tokens.toLocaleString("en"), layers, heads, groups, width];
      settings.forEach((text, i) => {
        all("setting-output")[i].textContent = text;
        inputs[i].setAttribute("aria-valuetext", text);
      });
      const message =
        `A text of ${settings[0]} tokens: ${spoken(sizes[0])} with multi-head attention, ${spoken(sizes[1])} with ` +
        `${groups} ${groups > 1 ? "groups" : "group"}, ${spoken(sizes[2])} multi-query, ${spoken(sizes[3])} latent. ` +
        `80 GB are full at ${Math.floor(80e9 / perToken[0]).toLocaleString("en")} tokens of multi-head attention` +
        (groups < heads ? `, and at ${Math.floor(80e9 / perToken[1]).toLocaleString("en")} of grouped.` : "; grouped is the same.");
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

  const startAll = () => document.querySelectorAll('[data-figure="cost"]').forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
