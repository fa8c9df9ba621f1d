"use strict";
// Runs twice: at once, so that the page never flashes in the other theme, and when the page is there.
(() => {
  const root = document.documentElement;
  const remembered = (key, value) => {
    try {
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch (error) { /* a browser may keep nothing for pages from disk */ }
    return null;
  };
  root.classList.add("js");
  const theme = remembered("earwitness-theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  function themeToggle(button) {
    const say = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remembered("earwitness-theme", root.dataset.theme);
      say();
    });
    say();
  }

  // --- tables

  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  }

  function compare(a, b, sign) {
    const [noA, noB] = [a === "" || a === "–", b === "" || b === "–"];
    if (noA || noB) return noA - noB; // what has no value comes last, either way
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    for (const [column, head] of heads.entries()) {
      if (!head.dataset.first) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const other = { ascending: "descending", descending: "ascending" };
        const order = now ? other[now] : head.dataset.first;
        for (const one of heads) one.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        for (const body of table.tBodies) { // groups stay apart
          const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
          rows.sort((a, b) => compare(valueOf(a, column), valueOf(b, column), sign));
          body.append(...rows);
        }
      });
    }
    for (const body of table.querySelectorAll("tbody[data-fold]")) fold(body);
  }

  function fold(body) {
    const rows = [...body.rows].slice(1);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    const show = (open) => {
      for (const row of rows) row.hidden = !open;
      button.setAttribute("aria-expanded", open);
      button.textContent = `${open ? "Hide" : "Show"} ${rows.length}: ${body.dataset.fold.toLowerCase()}`;
    };
    button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
    body.rows[0].cells[0].replaceChildren(button);
    show(false);
  }

  // --- filters

  function filter(form) {
    const place = document.getElementById(form.dataset.filter);
    const list = place.tBodies ? place.tBodies[0] : place;
    const items = [...list.querySelectorAll("[data-item]")];
    const count = form.querySelector("output");
    const apply = () => {
      const wanted = new FormData(form);
      const text = wanted.get("text").trim().toLowerCase();
      let left = 0;
      for (const item of items) {
        const fits = item.dataset.text.toLowerCase().includes(text)
          && ["class", "outcome", "decision"].every((name) => {
            const value = wanted.get(name);
            return !value || item.dataset[name].split("|").includes(value) || item.dataset[name] === value;
          });
        item.hidden = !fits;
        left += fits;
      }
      count.textContent = left === items.length ? `${left} clips` : `${left} of ${items.length} clips`;
    };
    const reorder = () => {
      const order = form.elements.order;
      const sign = order.selectedOptions[0].dataset.direction === "up" ? 1 : -1;
      const key = `s${order.value}`;
      const read = (item) => (item.dataset[key] === "" ? "" : Number(item.dataset[key]));
      const sorted = order.value === "" ? items : [...items].sort((a, b) => compare(read(a), read(b), sign));
      list.append(...sorted);
    };
    form.addEventListener("input", (event) => { if (event.target.name === "order") reorder(); else apply(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // --- curves

  function curves(section) {
    const buttons = [...section.querySelectorAll(".legend button")];
    let pressed = null;
    const light = (series) => {
      section.classList.toggle("focused", series !== null);
      for (const path of section.querySelectorAll(".chart .curve")) {
        path.classList.toggle("on", path.dataset.series === series);
      }
    };
    for (const button of buttons) {
      const own = button.dataset.series;
      button.addEventListener("mouseenter", () => light(own));
      button.addEventListener("mouseleave", () => light(pressed));
      button.addEventListener("focus", () => light(own));
      button.addEventListener("blur", () => light(pressed));
      button.addEventListener("click", () => {
        pressed = pressed === own ? null : own;
        for (const one of buttons) one.setAttribute("aria-pressed", one.dataset.series === pressed);
        light(pressed);
      });
    }
  }

  // --- sounds

  let playing = null;

  function player(audio) {
    const button = document.createElement("button");
    const card = audio.closest(".card, .hero");
    button.type = "button";
    button.className = "play";
    button.textContent = audio.dataset.what;
    button.setAttribute("aria-label", `Play ${audio.getAttribute("aria-label")}`);
    button.setAttribute("aria-pressed", "false");
    audio.after(button);
    const at = () => {
      const share = audio.duration ? audio.currentTime / audio.duration : 0;
      button.style.setProperty("--at", share);
      for (const screen of card.querySelectorAll(".screen")) screen.style.setProperty("--at", share || -1);
      if (!audio.paused) requestAnimationFrame(at);
    };
    const start = () => {
      const before = playing;
      if (before && before !== audio) {
        before.pause();
        // The next sound of the same clip goes on where this one was: that is how one hears what is missing.
        if (before.closest(".card, .hero") === card && !before.ended) audio.currentTime = before.currentTime;
      }
      playing = audio;
      audio.play().catch(() => button.classList.add("broken"));
    };
    button.addEventListener("click", () => (audio.paused ? start() : audio.pause()));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
      if (step === undefined || !audio.duration) return;
      event.preventDefault();
      audio.currentTime = Math.min(Math.max(audio.currentTime + step, 0), audio.duration);
      at();
    });
    audio.addEventListener("play", () => { button.setAttribute("aria-pressed", "true"); at(); });
    audio.addEventListener("pause", () => button.setAttribute("aria-pressed", "false"));
    audio.addEventListener("ended", at);
    audio.addEventListener("error", () => button.classList.add("broken"));
  }

  function screen(picture) {
    const first = picture.closest(".card, .hero").querySelector("audio[data-what='heard'], audio");
    picture.addEventListener("click", (event) => {
      const card = picture.closest(".card, .hero");
      const audio = playing && playing.closest(".card, .hero") === card ? playing : first;
      const box = picture.getBoundingClientRect();
      const go = () => { audio.currentTime = (event.clientX - box.left) / box.width * audio.duration; };
      if (audio.paused) audio.parentElement.querySelector(".play").click();
      if (audio.duration) go(); else audio.addEventListener("loadedmetadata", go, { once: true });
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) themeToggle(button);
    for (const table of document.querySelectorAll("[data-sortable]")) sortable(table);
    for (const form of document.querySelectorAll("[data-filter]")) filter(form);
    for (const section of document.querySelectorAll("[data-curves]")) curves(section);
    for (const audio of document.querySelectorAll(".player audio")) player(audio);
    for (const picture of document.querySelectorAll(".screen")) screen(picture);
  });
})();
