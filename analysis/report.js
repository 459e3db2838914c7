// Show the words of the nearest point. Without this script each point keeps its own <title>.
(() => {
  const REACH = 22;
  const box = document.body.appendChild(document.createElement("div"));
  box.id = "hover";
  box.setAttribute("role", "status");
  const words = new Map();
  for (const mark of document.querySelectorAll("svg .tip")) {
    const title = mark.querySelector("title");
    if (!title) continue;
    words.set(mark, title.textContent);
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const centre = (mark) => {
    const r = mark.getBoundingClientRect();
    return [r.left + r.width / 2, r.top + r.height / 2];
  };
  const nearest = (svg, x, y) => {
    let best = null, least = REACH * REACH;
    for (const mark of svg.querySelectorAll(".tip")) {
      const [cx, cy] = centre(mark);
      const d = (cx - x) ** 2 + (cy - y) ** 2;
      if (d <= least && words.has(mark)) [best, least] = [mark, d];
    }
    return best;
  };
  const show = (mark) => {
    box.textContent = words.get(mark);
    const [cx, cy] = centre(mark);
    const wide = document.documentElement.clientWidth;
    const left = Math.min(Math.max(cx - box.offsetWidth / 2, 8), wide - box.offsetWidth - 8);
    const above = cy - box.offsetHeight - 12;
    box.style.left = `${left + scrollX}px`;
    box.style.top = `${(above < 8 ? cy + 14 : above) + scrollY}px`;
    box.classList.add("on");
  };
  for (const svg of document.querySelectorAll("figure svg")) {
    const point = (event) => {
      const mark = nearest(svg, event.clientX, event.clientY);
      if (mark) show(mark);
      else box.classList.remove("on");
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", () => box.classList.remove("on"));
  }
  // A choice: one button an option. Without this script every option is there to read.
  for (const choice of document.querySelectorAll(".choice")) {
    const area = choice.closest("section");
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", choice.dataset.label);
    const choose = (pick) => {
      for (const e of area.querySelectorAll("[data-pick]"))
        e.classList.toggle("off", e.dataset.pick !== pick);
      for (const b of bar.children) b.setAttribute("aria-pressed", String(b.value === pick));
    };
    for (const option of choice.querySelectorAll("li")) {
      const button = document.createElement("button");
      button.type = "button";
      button.value = option.dataset.pick;
      button.textContent = option.dataset.name;
      button.addEventListener("click", () => choose(button.value));
      bar.append(button);
    }
    choice.prepend(bar);
    choice.classList.add("live");
    choose("0");
  }
})();
