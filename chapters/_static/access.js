// What the theme leaves without a name or out of the keyboard's reach.

// The triangles that unfold a topic's pages in the sidebar have no text.
for (const toggle of document.querySelectorAll(".bd-sidebar-primary summary")) {
  const topic = toggle.closest("li").querySelector("a").textContent.trim();
  toggle.setAttribute("aria-label", `Pages of ${topic}`);
}

// Formulas and outputs wider than the screen scroll sideways: the arrow keys must get there too.
function reachWideParts() {
  for (const part of document.querySelectorAll('mjx-container[display="true"], .cell_output > .output')) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  reachWideParts();
  window.addEventListener("resize", reachWideParts);
});
