"use strict";
(() => {
  const test = JSON.parse(document.getElementById("test").textContent);
  const storageKey = `earwitness-listening-test-${test.test}`;
  const WORDS = ["bad", "poor", "fair", "good", "excellent"];
  const $ = (id) => document.getElementById(id);
  const spoken = (name) => name.replaceAll("_", " ");

  // --- what is kept between visits

  const load = () => {
    try { return JSON.parse(localStorage.getItem(storageKey)); } catch (error) { return null; }
  };
  const save = () => {
    try { localStorage.setItem(storageKey, JSON.stringify(state)); } catch (error) { /* it is kept until the tab closes */ }
  };
  const random = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16).padStart(8, "0")).join("");
  let state = load();
  if (!state || state.version !== 1) {
    state = { version: 1, session: random(), rater: "", started: "", page: 0, scores: {}, played: {} };
  }
  const forget = () => {
    try { localStorage.removeItem(storageKey); } catch (error) { /* nothing was kept */ }
  };

  // --- orders: each rater has one of their own, and the same one after a pause

  function shuffled(list, name) {
    let h = 2166136261;
    for (const letter of state.session + name) h = Math.imul(h ^ letter.charCodeAt(0), 16777619);
    const next = () => { // mulberry32
      h = (h + 0x6d2b79f5) | 0;
      let t = Math.imul(h ^ (h >>> 15), 1 | h);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const copy = [...list];
    for (let i = copy.length - 1; i > 0; i -= 1) {
      const j = Math.floor(next() * (i + 1));
      [copy[i], copy[j]] = [copy[j], copy[i]];
    }
    return copy;
  }
  const trials = [
    ...test.trials.filter((trial) => trial.training),
    ...shuffled(test.trials.filter((trial) => !trial.training), "trials"),
  ];
  const pages = ["welcome", "volume", ...trials, "done"];

  // --- sounds: one at a time, and the next one goes on where the last one was

  const sounds = new Map();
  let current = null;
  function sound(token, button) {
    if (!sounds.has(token)) {
      const audio = new Audio(`sounds/${token}.flac`);
      audio.loop = true;
      audio.preload = "auto";
      sounds.set(token, { audio, button });
      audio.addEventListener("error", () => ask("A sound cannot be played. Is the folder complete?"));
    }
    sounds.get(token).button = button;
    return sounds.get(token);
  }
  function stop() {
    if (!current) return;
    current.audio.pause();
    current.button.setAttribute("aria-pressed", "false");
    current = null;
  }
  function play(token, button) {
    const wanted = sound(token, button);
    const before = current;
    const at = before ? before.audio.currentTime : 0;
    stop();
    if (before === wanted) return;
    wanted.audio.currentTime = at;
    wanted.audio.play().catch(() => ask("This browser does not play the sound."));
    button.setAttribute("aria-pressed", "true");
    current = wanted;
    state.played[token] = true;
    save();
    ask("");
  }

  // --- pages

  const ask = (text) => { $("ask").textContent = text; };

  function show(number) {
    stop();
    state.page = Math.max(0, Math.min(number, pages.length - 1));
    save();
    const page = pages[state.page];
    const name = typeof page === "string" ? page : "trial";
    for (const section of document.querySelectorAll("[data-page]")) section.hidden = section.dataset.page !== name;
    $("where").textContent = typeof page === "string" || page.training
      ? "" : `${trials.indexOf(page)} of ${trials.length - 1}`;
    if (name === "trial") showTrial(page);
    if (name === "done") prepareFile();
    scrollTo(0, 0);
    const heading = document.querySelector(`[data-page="${name}"] h1`);
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }

  function showTrial(trial) {
    ask("");
    $("class").textContent = spoken(trial.class);
    $("practice").hidden = !trial.training;
    const list = $("sounds");
    list.replaceChildren();
    const reference = document.querySelector("[data-reference]");
    reference.onclick = () => play(trial.reference, reference);
    sound(trial.reference, reference);
    for (const [place, token] of shuffled(trial.sounds, trial.trial).entries()) {
      list.append(line(trial, token, place));
    }
  }

  function line(trial, token, place) {
    const item = document.createElement("li");
    const name = `Sound ${place + 1}`;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "play";
    button.textContent = name;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => play(token, button));
    sound(token, button);
    const slider = document.createElement("input");
    const output = document.createElement("output");
    const key = `${trial.trial} ${token}`;
    Object.assign(slider, { type: "range", min: 0, max: 100, step: 1 });
    slider.value = state.scores[key] === undefined ? 50 : state.scores[key];
    slider.setAttribute("aria-label", `${name}: how well it corresponds to the part that makes it ${spoken(trial.class)}, 0 to 100`);
    const say = () => {
      const given = state.scores[key] !== undefined;
      slider.classList.toggle("untouched", !given);
      output.textContent = given ? state.scores[key] : "–";
    };
    const rate = () => { state.scores[key] = Number(slider.value); save(); say(); ask(""); };
    slider.addEventListener("input", rate);
    slider.addEventListener("change", rate);
    slider.addEventListener("click", rate); // a rating of 50 is one, too
    const words = document.createElement("span");
    words.className = "words";
    words.setAttribute("aria-hidden", "true");
    for (const word of WORDS) words.append(Object.assign(document.createElement("span"), { textContent: word }));
    say();
    item.append(button, slider, output, words);
    return item;
  }

  function forward() {
    const trial = pages[state.page];
    const unheard = trial.sounds.filter((token) => !state.played[token]).length;
    const unrated = trial.sounds.filter((token) => state.scores[`${trial.trial} ${token}`] === undefined).length;
    if (unheard) return ask(`Listen to every sound first: ${unheard} left.`);
    if (unrated) return ask(`Rate every sound first: ${unrated} left.`);
    if (!trial.sounds.some((token) => state.scores[`${trial.trial} ${token}`] === 100)) {
      return ask("One of the sounds is the recording itself: give that one 100.");
    }
    return show(state.page + 1);
  }

  function prepareFile() {
    const ratings = trials.filter((trial) => !trial.training).flatMap((trial) => trial.sounds.map((token) => (
      { trial: trial.trial, sound: token, score: state.scores[`${trial.trial} ${token}`] })));
    const answers = {
      "earwitness-listening-test": 1,
      test: test.test,
      rater: state.rater,
      session: state.session,
      started: state.started,
      finished: new Date().toISOString(),
      ratings: ratings.filter((rating) => rating.score !== undefined),
    };
    const link = $("save");
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([JSON.stringify(answers, null, 1)], { type: "application/json" }));
    link.download = `answers-${test.test}-${state.session.slice(0, 8)}.json`;
  }

  $("who").elements.rater.value = state.rater;
  $("who").addEventListener("submit", (event) => {
    event.preventDefault();
    state.rater = $("who").elements.rater.value.trim();
    if (!state.rater) return;
    state.started = state.started || new Date().toISOString();
    show(1);
  });
  const volume = document.querySelector("[data-volume]");
  volume.addEventListener("click", () => play(trials[0].reference, volume));
  document.querySelector("[data-next]").addEventListener("click", () => show(2));
  $("forward").addEventListener("click", forward);
  $("back").addEventListener("click", () => show(state.page - 1));
  $("save").addEventListener("click", () => { $("anew").hidden = false; }); // not before: answers would be lost
  $("anew").addEventListener("click", () => { forget(); location.reload(); });
  $("again").addEventListener("click", () => show(pages.length - 2));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typeof pages[state.page] === "string") return;
    const buttons = [...document.querySelectorAll("#sounds .play")];
    if (event.key === "r" || event.key === "R") document.querySelector("[data-reference]").click();
    else if (event.key === "s" || event.key === "S") stop();
    else if (/^[1-9]$/.test(event.key) && buttons[event.key - 1]) buttons[event.key - 1].click();
  });
  show(state.page);
})();
