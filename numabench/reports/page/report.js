(() => {
  "use strict";
  const root = document.documentElement, tip = document.getElementById("tip");
  const said = (node) => node.closest?.("[data-tip], .tip, svg .mark-symbol [aria-label]");
  document.querySelectorAll("svg .mark-symbol [aria-label], svg .tip").forEach((mark) => mark.setAttribute("tabindex", "0"));
  const hide = () => tip.classList.remove("on");
  const show = (node, x, y) => {
    tip.textContent = node.dataset.tip || node.getAttribute("aria-label");
    tip.classList.add("on");
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? Math.max(8, y - box.height - 10) : y + 18) + "px";
  };
  document.querySelectorAll("svg .tip title").forEach((title) => title.remove());
  document.addEventListener("pointermove", (event) => {
    const node = said(event.target);
    node ? show(node, event.clientX, event.clientY) : hide();
  });
  // A finger has no place to rest: a tap shows what it meets, or the point of a curve that is nearest to it.
  const REACH = 24;
  const nearest = (svg, x, y) => {
    let best = null, least = REACH;
    svg.querySelectorAll("[tabindex]").forEach((mark) => {
      const box = mark.getBoundingClientRect();
      const away = Math.hypot(box.left + box.width / 2 - x, box.top + box.height / 2 - y);
      if (away < least) { best = mark; least = away; }
    });
    return best;
  };
  document.addEventListener("click", (event) => {
    const svg = event.target.closest?.("svg");
    const node = said(event.target) || (svg && nearest(svg, event.clientX, event.clientY));
    node ? show(node, event.clientX, event.clientY) : hide();
  });
  addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("focusin", (event) => {
    const node = said(event.target);
    if (!node) return hide();
    const box = node.getBoundingClientRect();
    show(node, box.left, box.bottom - 14);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const cell = event.target.closest?.("td[tabindex]");
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!cell || !step) return;
    const row = cell.parentElement, body = row.parentElement;
    const next = body.rows[row.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]];
    if (next?.hasAttribute("tabindex")) { event.preventDefault(); next.focus(); }
  });
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details.figures").forEach((each) => { each.open = true; }));
})();
