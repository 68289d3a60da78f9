// Sends each photograph in a request of its own, so that each answer is shown as soon as it is there.

const AT_ONCE = 4; // requests; the server computes photographs of several requests together
const element = (id) => document.getElementById(id);
const percent = (share) => (share > 0.9995 && share < 1 ? "> 99.9 %" : `${(100 * share).toFixed(1)} %`);
const waiting = [];
let sending = 0;
let shownModel = "";

function add(files) {
  const added = [...files].map((file) => ({ file, card: createCard(file) }));
  waiting.push(...added);
  element("photographs").prepend(...added.map(({ card }) => card));
  element("bar").hidden = element("photographs").children.length === 0;
  sendNext();
}

function createCard(file) {
  const card = element("photograph").content.firstElementChild.cloneNode(true);
  const picture = card.querySelector(".shown");
  picture.addEventListener("error", () => { picture.hidden = true; }); // a format that the browser does not know
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name;
  card.querySelector(".file").textContent = file.name;
  card.querySelector(".class").textContent = "waiting";
  card.classList.add("waiting");
  return card;
}

function sendNext() {
  while (sending < AT_ONCE && waiting.length > 0) {
    sending += 1;
    predict(waiting.shift()).finally(() => { sending -= 1; sendNext(); });
  }
  showStatus();
}

async function predict({ file, card }) {
  if (!card.isConnected) return; // cleared
  const answer = await request(file);
  if (!card.isConnected) return;
  show(card, answer);
  if (answer.model && answer.model !== shownModel) showModel();
}

async function request(file) {
  const form = new FormData();
  form.append("photographs", file, file.name);
  try {
    for (;;) {
      const response = await fetch("/predict?heat_maps=true", { method: "POST", body: form });
      if (response.ok) return (await response.json())[0];
      if (response.status !== 429) return { error: (await response.json()).detail };
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
    }
  } catch {
    return { error: await reasonOfFailure(file) };
  }
}

async function reasonOfFailure(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return "This is a folder, or a file that has changed. Choose its photographs.";
  }
  return "The server does not answer. Start it with `dogs-vs-cats page`, and choose the photograph again.";
}

// All that is shown of an answer, which is an object of the list that /predict returns.
function show(card, answer) {
  const find = (name) => card.querySelector(`.${name}`);
  card.classList.remove("waiting");
  card.classList.toggle("problem", "error" in answer);
  find("class").textContent = answer.error ?? answer.answer;
  if ("error" in answer) return;
  const isClass = answer.answer === answer.class; // or else `not sure` or `none of these`
  find("probability").textContent = percent(answer.probability);
  find("share").style.width = `${100 * answer.probability}%`;
  find("share").parentElement.hidden = !isClass;
  const others = Object.entries(answer.probabilities).filter(([name]) => name !== answer.class);
  others.sort(([, one], [, other]) => other - one);
  const listed = isClass ? others : [[answer.class, answer.probability], ...others];
  find("probability").hidden = !isClass;
  find("others").textContent = listed.slice(0, 3).map(([name, value]) => `${name} ${percent(value)}`).join(", ");
  find("others").hidden = listed.length < 2; // of two classes, one probability tells the other
  find("heat").src = answer.heat_map;
  find("heat").alt = `heat map for ${answer.class}`;
  find("heat").hidden = false;
  element("legend").hidden = false;
}

function showStatus() {
  const cards = [...element("photographs").children];
  const counts = new Map();
  for (const card of cards.filter((each) => !each.matches(".waiting, .problem"))) {
    const name = card.querySelector(".class").textContent;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const parts = [...counts].map(([name, count]) => `${count} ${name}`);
  const problems = element("photographs").querySelectorAll(".problem").length;
  if (problems > 0) parts.push(`${problems} not predicted`);
  const left = element("photographs").querySelectorAll(".waiting").length;
  if (left > 0) parts.push(`${left} waiting`);
  element("status").textContent = parts.join(", ");
}

async function showModel() {
  try {
    const model = await (await fetch("/model")).json();
    shownModel = model.name;
    const classes = model.classes.join(model.classes.length === 2 ? " or " : ", ");
    element("classes").textContent = `${classes}?`;
    document.title = `${classes}?`;
    element("files").accept = ["image/*", ...model.formats.map((format) => `.${format.toLowerCase()}`)].join(",");
    element("name").textContent = [`Model: ${model.name}`, ...mainScores(model.scores)].join(" · ");
    element("scores").replaceChildren(...Object.entries(model.scores).flatMap(([name, score]) => [
      Object.assign(document.createElement("dt"), { textContent: scoreName(name) }),
      Object.assign(document.createElement("dd"), { textContent: String(Number(score.toPrecision(4))) }),
    ]));
  } catch {
    element("name").textContent = "The server does not answer. Start it with `dogs-vs-cats page`.";
  }
}

function mainScores({ val_accuracy: accuracy, val_loss: loss }) {
  return accuracy === undefined ? [] : [`validation accuracy ${percent(accuracy)}, loss ${loss.toFixed(3)}`];
}

function scoreName(name) {
  const words = name.replace("val_", "validation ").replaceAll("_", " ");
  return name === "loss" || name === "accuracy" ? `training ${words}` : words;
}

function clear() {
  waiting.length = 0;
  for (const picture of document.querySelectorAll("#photographs .shown")) URL.revokeObjectURL(picture.src);
  element("photographs").replaceChildren();
  element("legend").hidden = true;
  element("bar").hidden = true;
  element("files").focus();
}

function dragged(event) {
  const leaves = event.type === "drop" || (event.type === "dragleave" && event.relatedTarget === null);
  event.preventDefault();
  document.body.classList.toggle("over", !leaves);
  if (event.type === "drop") add(event.dataTransfer.files);
}

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(type, dragged);
document.addEventListener("paste", (event) => add(event.clipboardData.files));
element("clear").addEventListener("click", clear);
element("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same photograph can be chosen again
});
showModel();
