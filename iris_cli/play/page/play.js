// The page of `iris play`: draws the moments that the server sends, and sends keys and orders. See play/protocol.py.
"use strict";

const token = new URLSearchParams(location.search).get("token") || "";
const $ = (id) => document.getElementById(id);
const play = { hello: null, state: {}, moment: null, moments: 0, known: new Map(), held: [] };
window.play = play; // for whoever looks from the console

const NAMES = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right", Space: "space" };
const keyName = (code) => NAMES[code] || code.replace(/^(Key|Digit)/, "");
const number = (x) => (Math.abs(x) >= 1000 || Number.isInteger(x) ? String(Math.round(x)) : x.toPrecision(3));

// -- the socket ---------------------------------------------------------------------------------------------------

const socket = new WebSocket(`ws://${location.host}/socket?token=${encodeURIComponent(token)}`);
socket.binaryType = "arraybuffer";
const send = (op, values = {}) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ op, ...values }));

socket.onmessage = ({ data }) => {
  if (data instanceof ArrayBuffer) return show(data);
  const message = JSON.parse(data);
  if (message.kind === "hello") welcome(message);
  if (message.kind === "state") update(message);
  if (message.kind === "saved") addFilm(message);
  if (message.kind === "error") complain(message.text, message.fatal);
};
socket.onclose = (event) => complain(`The connection is closed${event.reason ? ": " + event.reason : ""}. Reload to begin again.`, true);

function complain(text, stays = false) {
  const box = document.createElement("div");
  box.textContent = text;
  $("errors").append(box);
  while ($("errors").children.length > 3) $("errors").firstChild.remove();
  if (!stays) setTimeout(() => box.remove(), 7000);
}

// -- what is told -------------------------------------------------------------------------------------------------

function welcome(hello) {
  play.hello = hello;
  document.title = `iris play: ${hello.title}`;
  $("title").textContent = hello.title;
  $("subtitle").textContent = hello.subtitle;
  $("seed").value = hello.first.seed;
  $("dream").hidden = $("dreaming").hidden = !hello.can_dream;
  for (const each of [$("stored"), ...document.querySelectorAll("label.stored")]) each.hidden = !hello.can_dream || !hello.episodes;
  $("episode").max = hello.episodes - 1;
  $("fire").hidden = !Object.values(hello.layout.pad).includes("FIRE");
  for (const [code, meaning] of Object.entries(hello.layout.extras)) $("extras").append(holdButton(code, meaning));
  $("keys").replaceChildren();
  const pads = {};
  for (const [code, part] of Object.entries(hello.layout.pad)) (pads[part] ||= []).push(keyName(code));
  for (const [part, codes] of Object.entries(pads)) explain(codes.join(" or "), part.toLowerCase());
  for (const [code, meaning] of Object.entries(hello.layout.extras)) explain(keyName(code), meaning.toLowerCase());
  for (const [key, what] of [["P", "play, pause"], [", and .", "back, step"], ["H", "hand over, take back"], ["M", "record, save"], ["R or Enter", "begin again"]]) explain(key, what);
}

function explain(key, what) {
  const name = document.createElement("kbd");
  name.textContent = key;
  $("keys").append(name, what);
}

function update(state) {
  const before = play.state;
  play.state = { ...before, ...state };
  const { playing, control, controls, first, last, branches, recording, measured, fps, collected, along } = play.state;
  $("play").textContent = playing ? "Pause" : "Play";
  $("hand").textContent = control === "you" ? (controls.includes("agent") ? "Hand to the agent" : "You play") : "Take over";
  $("hand").disabled = control === "you" && !controls.includes("agent");
  $("follow").hidden = !controls.includes("stored");
  $("follow").classList.toggle("on", control === "stored");
  $("hand").classList.toggle("on", control !== "you");
  $("time").min = first;
  $("time").max = last;
  if (document.activeElement !== $("fps")) $("fps").value = fps;
  $("pace").textContent = playing && measured ? `${measured.toFixed(1)} / ${fps} fps` : playing ? "" : "paused";
  $("recording").hidden = recording === null;
  $("recording").textContent = `rec ${recording}`;
  $("record").textContent = recording === null ? "Record" : "Drop";
  $("mp4").disabled = $("gif").disabled = !(recording > 1);
  $("along").checked = along;
  $("anew").disabled = play.state.world !== "real";
  $("collected").hidden = !collected;
  $("collected").textContent = collected || "";
  if (JSON.stringify(branches) !== JSON.stringify(before.branches)) drawBranches(branches);
  if (before.control && before.control !== control) hint(control === "you" ? "You play." : control === "agent" ? "The agent plays. A key or H takes over." : "The stored episode's actions. A key or H takes over.");
}

function show(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const moment = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = 64 * 64 * 3;
  moment.pictures = moment.panels.map((_, i) => new Uint8Array(buffer, 4 + length + i * size, size));
  play.moment = moment;
  play.moments += 1;
  if (moment.step === 0 && moment.last === 0) play.known.clear();
  play.known.set(moment.step, { reward: moment.reward, value: moment.value });
  for (const step of play.known.keys()) if (step > moment.last || step < moment.first) play.known.delete(step);
  update(moment);
  drawPanels(moment);
  const meanings = play.hello.layout.meanings;
  $("score").textContent = number(moment.score);
  $("step").textContent = moment.step;
  $("who").textContent = moment.who || "";
  $("action").textContent = moment.action === null ? "" : meanings[moment.action].toLowerCase();
  $("over").hidden = !moment.over;
  $("over").textContent = moment.world === "dream" ? "the dream says: over" : "episode over";
  if (moment.over) hint(moment.world === "dream" ? "P dreams on, R begins again, or go back to a moment." : "R begins again, or go back to a moment.");
  else if (moment.step === 0) hint("A key of the game, or Play, begins.");
  else if (moment.step === 1) hint("");
  $("time").value = moment.step;
  drawPolicy(moment, meanings);
  drawModel(moment);
  drawTokens(moment);
  drawStrip(moment);
}

function hint(text) {
  $("hint").textContent = text;
}

// -- drawing ------------------------------------------------------------------------------------------------------

function drawPanels(moment) {
  const labels = moment.panels.map((panel) => panel.label).join();
  if ($("panels").dataset.labels !== labels) {
    $("panels").dataset.labels = labels;
    $("panels").replaceChildren(...moment.panels.map((panel) => {
      const figure = document.createElement("figure");
      figure.innerHTML = '<canvas width="64" height="64"></canvas><figcaption><b></b><span class="badge" hidden></span></figcaption>';
      figure.dataset.label = panel.label;
      figure.querySelector("b").textContent = panel.label;
      return figure;
    }));
  }
  moment.panels.forEach((panel, i) => {
    const figure = $("panels").children[i], badge = figure.querySelector(".badge");
    const picture = new ImageData(64, 64);
    for (let from = 0, to = 0; to < picture.data.length; from += 3, to += 4) {
      picture.data[to] = moment.pictures[i][from];
      picture.data[to + 1] = moment.pictures[i][from + 1];
      picture.data[to + 2] = moment.pictures[i][from + 2];
      picture.data[to + 3] = 255;
    }
    figure.querySelector("canvas").getContext("2d").putImageData(picture, 0, 0);
    figure.classList.toggle("lead", panel.label === moment.world);
    figure.classList.toggle("ended", panel.end && panel.label !== "dream"); // a dream goes on past its end
    badge.hidden = !panel.reward && !panel.end;
    badge.textContent = panel.reward ? (panel.reward > 0 ? "+" : "") + number(panel.reward) : "end";
    badge.className = "badge " + (panel.reward > 0 ? "gain" : panel.reward < 0 ? "loss" : "end");
  });
}

// Rows of name, bar and number; they are made once and then only filled.
function bars(box, rows) {
  if (box.children.length !== rows.length * 3) {
    box.replaceChildren(...rows.flatMap(() => {
      const bar = document.createElement("div");
      bar.append(document.createElement("i"));
      return [document.createElement("span"), bar, document.createElement("output")];
    }));
  }
  rows.forEach(([name, share, kind, taken], i) => {
    const [label, bar, text] = [...box.children].slice(i * 3, i * 3 + 3);
    label.textContent = name;
    label.classList.toggle("taken", Boolean(taken));
    bar.className = "bar " + kind;
    bar.firstChild.style.width = `${Math.min(100, share * 100)}%`;
    text.textContent = share < 0.0995 && share > 0 ? `${(share * 100).toFixed(1)}%` : `${Math.round(share * 100)}%`;
  });
}

function drawPolicy(moment, meanings) {
  $("policy").hidden = !moment.chances;
  if (!moment.chances) return;
  $("value").textContent = moment.value.toFixed(3);
  bars($("chances"), moment.chances.map((chance, action) => [meanings[action].toLowerCase(), chance, ""]));
}

function drawModel(moment) {
  const expected = moment.expected;
  $("model").hidden = !expected && !moment.panels.some((panel) => panel.label === "dream");
  const signs = expected && expected.signs ? expected.signs : [0, 0, 0];
  bars($("signs"), [["reward +1", signs[2], "gain"], ["reward 0", signs[1], ""], ["reward −1", signs[0], "loss"], ["end", expected ? expected.end : 0, "end"]]);
  $("expected").textContent = expected ? expected.reward.toFixed(3) : "";
}

function drawTokens(moment) {
  $("tokens").hidden = !moment.tokens;
  if (!moment.tokens) return;
  const side = Math.sqrt(moment.tokens.length), tokensOf = play.hello.tokens_of, grid = $("grid");
  $("tokens-of").textContent = tokensOf === "transition" ? "of the last transition" : `of the ${moment.world} ${tokensOf}`;
  grid.style.gridTemplateColumns = `repeat(${Number.isInteger(side) ? side : 8}, 1fr)`;
  if (grid.children.length !== moment.tokens.length) grid.replaceChildren(...moment.tokens.map(() => document.createElement("div")));
  moment.tokens.forEach((code, i) => {
    const cell = grid.children[i];
    cell.classList.toggle("new", cell.textContent !== "" && cell.textContent !== String(code));
    cell.textContent = code;
    cell.style.background = `hsl(${(code * 137.508) % 360} 55% ${58 + (code % 3) * 7}%)`;
  });
}

function drawStrip(moment) {
  const canvas = $("strip"), wide = Math.max(200, canvas.clientWidth), pen = canvas.getContext("2d");
  if (canvas.width !== wide) canvas.width = wide;
  const { first, last } = moment, span = Math.max(last - first, 60), place = (step) => 4 + ((step - first) / span) * (wide - 8);
  pen.clearRect(0, 0, wide, 44);
  const values = [...play.known].filter(([, known]) => known.value !== null).sort((a, b) => a[0] - b[0]);
  if (values.length > 1) {
    let low = Infinity, high = -Infinity;
    for (const [, known] of values) [low, high] = [Math.min(low, known.value), Math.max(high, known.value)];
    pen.strokeStyle = "#6ea8fe";
    pen.beginPath();
    for (const [step, known] of values) pen.lineTo(place(step), 38 - (32 * (known.value - low)) / Math.max(high - low, 1e-6));
    pen.stroke();
  }
  for (const [step, known] of play.known) {
    if (!known.reward) continue;
    pen.fillStyle = known.reward > 0 ? "#62c47a" : "#e86056";
    pen.fillRect(place(step) - 1, 2, 3, 40);
  }
  pen.fillStyle = "#dcdee3";
  pen.fillRect(place(moment.step), 0, 1, 44);
}

function drawBranches(branches) {
  $("branches").hidden = !branches.length;
  $("branches").replaceChildren($("branches").firstElementChild, ...branches.map((step, number) => button(`to step ${step}`, () => send("branch", { number }))));
}

function addFilm({ name, path, frames }) {
  const item = document.createElement("li"), link = document.createElement("a");
  link.href = `/films/${encodeURIComponent(name)}?token=${encodeURIComponent(token)}`;
  link.download = name;
  link.textContent = name;
  link.title = path;
  item.append(link, ` ${frames} frames`);
  $("films").prepend(item);
}

// -- keys and buttons ---------------------------------------------------------------------------------------------

function button(text, act) {
  const made = document.createElement("button");
  made.textContent = text;
  made.onclick = act;
  return made;
}

const isGameKey = (code) => play.hello && (code in play.hello.layout.pad || code in play.hello.layout.extras);

function hold(codes, released = []) {
  const held = [...play.held.filter((code) => !released.includes(code)), ...codes.filter((code) => !play.held.includes(code))];
  if (held.join() === play.held.join()) return;
  const pressed = held.some((code) => !play.held.includes(code));
  play.held = held;
  send("keys", { held });
  if (!pressed) return;
  if (play.state.control !== "you") send("control", { who: "you" });
  if (!play.state.playing && play.moment && play.moment.step === 0) send("play");
}

function begin() {
  if (play.state.world === "dream" && play.fromEpisode) startStored();
  else start(play.state.world);
}

// A number from a field, brought into what the server takes.
const field = (id) => Math.max(0, Math.min(1e9, Math.trunc(Number($(id).value) || 0)));

function startStored() {
  play.fromEpisode = true;
  send("start", { world: "dream", seed: field("seed"), episode: field("episode"), at: field("at") });
}

function start(world) {
  play.fromEpisode = false;
  if (play.hello.collecting) $("seed").value = field("seed") + 1; // the same game again would be the same data
  send("start", { world, seed: field("seed") });
}

function nextHand() {
  send("control", { who: play.state.control === "you" ? "agent" : "you" });
}

const name = () => ($("name").value.trim() ? { name: $("name").value.trim() } : {});
const save = (kind) => send("save", { kind, ...name() });
const record = () => send(play.state.recording === null ? "record" : "drop");
const toggle = () => send(play.state.playing ? "pause" : "play");
const back = () => play.moment && send("rewind", { to: Math.max(play.state.first, play.moment.step - 1) });
const forth = () => {
  if (!play.moment) return;
  if (play.moment.step < play.state.last && !play.held.length) send("rewind", { to: play.moment.step + 1 });
  else send("step");
};

Object.assign($("play"), { onclick: toggle });
$("back").onclick = back;
$("forth").onclick = forth;
$("hand").onclick = nextHand;
$("follow").onclick = () => send("control", { who: play.state.control === "stored" ? "you" : "stored" });
$("real").onclick = () => start("real");
$("dream").onclick = () => start("dream");
$("stored").onclick = startStored;
$("along").onchange = () => send("along", { on: $("along").checked });
$("anew").onclick = () => send("dream");
$("record").onclick = record;
$("mp4").onclick = () => save("mp4");
$("gif").onclick = () => save("gif");
$("fps").onchange = () => send("speed", { fps: Number($("fps").value) });
$("time").oninput = () => send("rewind", { to: Number($("time").value) });
$("strip").onclick = (event) => {
  const { first, last } = play.state, wide = $("strip").clientWidth;
  const step = Math.round(first + ((event.offsetX - 4) / (wide - 8)) * Math.max(last - first, 60));
  send("rewind", { to: Math.max(first, Math.min(last, step)) });
};
document.addEventListener("click", (event) => event.target.closest("button") && event.target.closest("button").blur()); // space is a key of the game
$("fps").addEventListener("change", () => $("fps").blur());

const PAGE_KEYS = { KeyP: toggle, Comma: back, Period: forth, KeyH: nextHand, KeyM: () => (play.state.recording > 1 ? save("mp4") : record()), KeyR: begin, Enter: begin };
const MAY_REPEAT = ["Comma", "Period"];
const isTyping = (event) => event.target.matches("input:not([type=range]):not([type=checkbox]), select");

addEventListener("keydown", (event) => {
  if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isGameKey(event.code)) {
    event.preventDefault();
    if (!event.repeat) hold([event.code]);
  } else if (PAGE_KEYS[event.code] && (!event.repeat || MAY_REPEAT.includes(event.code))) {
    event.preventDefault();
    PAGE_KEYS[event.code]();
  }
});
addEventListener("keyup", (event) => isGameKey(event.code) && hold([], [event.code]));
addEventListener("blur", () => hold([], play.held));

// -- touch --------------------------------------------------------------------------------------------------------

function holdButton(code, text, made = button(text)) {
  made.onpointerdown = (event) => {
    made.setPointerCapture(event.pointerId);
    made.classList.add("down");
    hold([code]);
  };
  made.onpointerup = made.onpointercancel = () => {
    made.classList.remove("down");
    hold([], [code]);
  };
  made.oncontextmenu = (event) => event.preventDefault();
  return made;
}

const ARROWS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"];
holdButton("Space", "FIRE", $("fire"));
$("stick").onpointerdown = (event) => {
  $("stick").setPointerCapture(event.pointerId);
  steer(event);
};
$("stick").onpointermove = (event) => $("stick").hasPointerCapture(event.pointerId) && steer(event);
$("stick").onpointerup = $("stick").onpointercancel = () => {
  hold([], ARROWS);
  $("stick").firstElementChild.style.transform = "";
};

function steer(event) {
  const box = $("stick").getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width - 0.5, y = (event.clientY - box.top) / box.height - 0.5;
  const far = Math.hypot(x, y), wanted = [];
  if (far > 0.12) {
    if (Math.abs(x) > 0.38 * far) wanted.push(x < 0 ? "ArrowLeft" : "ArrowRight");
    if (Math.abs(y) > 0.38 * far) wanted.push(y < 0 ? "ArrowUp" : "ArrowDown");
  }
  const reach = Math.min(1, 0.34 / Math.max(far, 1e-6));
  $("stick").firstElementChild.style.transform = `translate(${x * reach * box.width}px, ${y * reach * box.height}px)`;
  hold(wanted.filter((code) => isGameKey(code)), ARROWS.filter((code) => !wanted.includes(code)));
}
