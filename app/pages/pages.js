// The pages for the links in mails, and to log in. Their HTML says what there is to do:
//
//   data-when="link ask"   shown in these states of the page
//   data-send="POST path"  where below /api/v1 a form sends its named fields, as JSON
//   data-token             with the token of the link that led here
//   data-then="done"       the state afterwards; without it, the answer says who is logged in
//   data-say="sentence"    what to say then
//   data-user="email"      a property of whoever is logged in
//   data-shows="id id"     a checkbox that shows these passwords

const NOBODY_ANSWERS = "The service cannot be reached. Check your connection, and try again.";
const LOGGED_OUT = "You are logged out. Log in again.";
const LONGEST_WAIT = 30_000; // milliseconds

const line = document.getElementById("status");
let token = null; // of the link: here and nowhere else, until somebody presses the button
let busy = false;

async function start() {
  token = takeToken() ?? token;
  if (document.querySelector('[data-when="in"]')) {
    const answer = await call("GET", "users/me");
    if (answer.ok) welcome(answer);
    else show("out", answer.code === "not_authenticated" ? "" : sentence(answer));
  } else {
    show(token ? "link" : "ask");
  }
}

// Out of the address bar and the history at once, where others look and screenshots are made. The
// fragment was sent to no server, and opening the page uses nothing up: mail scanners do that, too.
function takeToken() {
  const address = new URL(location.href);
  const found = new URLSearchParams(address.hash.slice(1)).get("token");
  if (address.hash) {
    address.hash = "";
    history.replaceState(null, "", address.href);
  }
  return found;
}

function show(state, message = "") {
  for (const element of document.querySelectorAll("[data-when]")) {
    element.hidden = !element.dataset.when.split(" ").includes(state);
  }
  say(message);
}

function say(message, refused = Boolean(message)) {
  line.textContent = message;
  line.classList.toggle("refused", refused);
}

function welcome(user) {
  for (const element of document.querySelectorAll("[data-user]")) {
    const value = user[element.dataset.user];
    element["value" in element ? "value" : "textContent"] = value;
  }
  show(user.must_change_password ? "must-change" : "in");
}

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy) return; // a double click sends once
  busy = true;
  event.target.setAttribute("aria-busy", "true");
  try {
    await submit(event.target);
  } finally {
    busy = false;
    event.target.removeAttribute("aria-busy");
  }
});

async function submit(form) {
  const fields = [...form.elements];
  hidePasswords(fields);
  fields.forEach((field) => field.removeAttribute("aria-invalid"));
  const empty = fields.filter((field) => field.required && !field.value);
  if (empty.length) {
    return refuse(`Missing: ${empty.map(labelOf).join(", ")}.`, empty);
  }
  say("One moment …", false);
  const content = Object.fromEntries(new FormData(form));
  if ("token" in form.dataset) content.token = token;
  const answer = await call(...form.dataset.send.split(" "), content);

  if (answer.ok) {
    form.reset();
    if ("token" in form.dataset) token = null;
    if (answer.user) welcome(answer.user);
    else show(form.dataset.then);
    say(form.dataset.say ?? "", false);
    return focusOnWhatIsShown();
  }
  if (answer.code === "invalid_one_time_token") {
    token = null;
    show("ask", sentence(answer));
    return focusOnWhatIsShown();
  }
  if (answer.status === 401 && answer.code !== "invalid_credentials") {
    form.reset();
    show("out", answer.code === "not_authenticated" ? LOGGED_OUT : sentence(answer));
    return focusOnWhatIsShown();
  }
  refuse(sentence(answer), fieldsOf(form, answer));
}

function refuse(message, fields) {
  say(message);
  fields.forEach((field) => field.setAttribute("aria-invalid", "true"));
  fields[0]?.focus();
}

// Where somebody goes on who uses the keyboard, and what a screen reader reads next.
function focusOnWhatIsShown() {
  const shown = document.querySelector("[data-when]:not([hidden])");
  (shown?.querySelector("input:not([hidden])") ?? shown?.querySelector("button") ?? shown)?.focus();
}

// Which field a refusal is about.
function fieldsOf(form, { code, errors = [] }) {
  const kind = {
    invalid_credentials: "current-password",
    wrong_password: "current-password",
    password_too_short: "new-password",
    password_too_common: "new-password",
    password_too_personal: "new-password",
    password_breached: "new-password",
    password_unchanged: "new-password",
  }[code];
  return [...form.elements].filter(
    ({ name, autocomplete }) =>
      name && (autocomplete === kind || errors.some(({ loc }) => loc.at(-1) === name)),
  );
}

function labelOf(field) {
  return field.labels[0].textContent.trim();
}

// The texts of the API are for people, too, but for the names of its fields and of its settings.
function sentence(answer) {
  const { status, code, detail, errors, request_id: id } = answer;
  if (!status) return NOBODY_ANSWERS;
  if (status === 429) return `Too many attempts. Try again in ${duration(answer.retry_after)}.`;
  if (status === 503) return "The service is busy. Try again in a moment.";
  if (code === "validation_failed") {
    return errors.map(({ loc, msg }) => `${nameOf(loc.at(-1))}: ${msg}.`).join(" ");
  }
  if (!detail || status >= 500) {
    return `Something went wrong (${id ?? status}). Try again, and tell us if it stays so.`;
  }
  return detail.replace(/`(\w+)`/g, (_, name) => answer[name] ?? name);
}

function nameOf(field) {
  const [found] = document.querySelectorAll(`form:not([hidden]) [name="${CSS.escape(field)}"]`);
  return found ? labelOf(found) : field;
}

function duration(seconds) {
  if (!(seconds > 0)) return "a moment";
  const [count, unit] = seconds < 100 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

// The access token lasts minutes, the login days: one is renewed from the other.
async function call(method, path, content) {
  const answer = await send(method, path, content);
  if (answer.code !== "not_authenticated") return answer;
  const refreshed = await send("POST", "auth/refresh");
  return refreshed.ok ? send(method, path, content) : refreshed;
}

async function send(method, path, content = {}) {
  const options = { method, credentials: "same-origin", redirect: "error" };
  if (Object.keys(content).length) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(content);
  }
  try {
    // Relative: works behind a proxy that adds a path in front.
    const address = new URL(`../api/v1/${path}`, location.href);
    const signal = AbortSignal.timeout(LONGEST_WAIT);
    const response = await fetch(address, { ...options, signal });
    const type = response.headers.get("content-type") ?? "";
    const read = type.includes("json") ? await response.json() : {};
    return { ...read, ok: response.ok, status: response.status };
  } catch {
    return { ok: false, status: 0 };
  }
}

document.addEventListener("change", ({ target }) => {
  for (const id of target.dataset.shows?.split(" ") ?? []) {
    document.getElementById(id).type = target.checked ? "text" : "password";
  }
});

// Browsers remember what was typed into a text field, and password managers look for the type.
function hidePasswords(fields) {
  for (const box of fields.filter((field) => field.dataset.shows && field.checked)) box.click();
}

addEventListener("hashchange", start); // the link was opened where the page already was
addEventListener("pageshow", (event) => event.persisted && start()); // who is logged in now?
start();
