// Replaces the texts of the page by what the service says now, about once a second. Texts of others
// become text nodes and attributes that are texts, never HTML.
"use strict";

const EVERY_MS = 1000;
const WAIT_MS = 5000; // for one answer
const SLOWEST_MS = 30000; // between two tries while there is no answer
const POINTS = 120; // of the chart

const status_ = document.getElementById("status");
const pause = document.getElementById("pause");
const chart = document.getElementById("chart");
const history_ = [];
let timer = 0;
let failures = 0;

function setText(element, text) {
    if (element.textContent !== text) {
        element.textContent = text;
    }
}

function say(text, bad) {
    setText(status_, text);
    status_.className = bad ? "bad" : "";
}

function fillPicture(cell, light, dark, said) {
    let image = cell.querySelector("img");
    if (image === null) {
        const picture = document.createElement("picture");
        const source = document.createElement("source");
        source.media = "(prefers-color-scheme: dark)";
        source.srcset = dark;
        image = document.createElement("img");
        image.width = 256;
        image.height = 14;
        image.src = light;
        picture.append(source, image);
        cell.replaceChildren(picture);
    }
    image.alt = said;
}

// The cells of one row; elements stay where they are, so that focus and pictures do.
function fillRow(row, heads, given) {
    row.className = given.mood;
    given.cells.forEach((text, index) => {
        const cell = row.children[index];
        if (heads[index].textContent === "Picture" && given.picture !== null) {
            fillPicture(cell, ...given.picture);
        } else {
            setText(cell, text);
        }
    });
}

function newRow(heads, key) {
    const row = document.createElement("tr");
    row.dataset.key = key;
    for (const [index, head] of [...heads].entries()) {
        const cell = document.createElement(index === 0 ? "th" : "td");
        if (index === 0) {
            cell.scope = "row";
        }
        cell.className = head.className;
        row.append(cell);
    }
    return row;
}

function fillTable(section, rows) {
    const heads = section.querySelectorAll("thead th");
    const body = section.querySelector("tbody");
    const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    rows.forEach((given, index) => {
        const row = before.get(given.key) ?? newRow(heads, given.key);
        before.delete(given.key);
        fillRow(row, heads, given);
        if (body.rows[index] !== row) {
            body.insertBefore(row, body.rows[index] ?? null);
        }
    });
    before.forEach((row) => row.remove());
    section.querySelector(".empty").hidden = rows.length > 0;
    section.querySelector(".wide").hidden = rows.length === 0;
}

function sizeText(value) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
        value /= 1024;
        unit += 1;
    }
    return `${value.toFixed(unit === 0 ? 0 : 1)} ${units[unit]}/s`;
}

function draw(checked) {
    if (checked === null) {
        return;
    }
    history_.push(checked);
    history_.splice(0, history_.length - POINTS);
    const most = Math.max(...history_, 1);
    const points = history_.map((each, index) => {
        const x = POINTS - history_.length + index;
        return `${x},${(29 - (28 * each) / most).toFixed(2)}`;
    });
    chart.querySelector("polyline").setAttribute("points", points.join(" "));
    setText(
        document.getElementById("chart-text"),
        `Checked, the last two minutes: now ${sizeText(checked)}, at most ${sizeText(most)}.`,
    );
    chart.hidden = history_.length < 2;
}

function show(data) {
    if (data.run !== document.documentElement.dataset.run) {
        location.reload(); // what is where is another service's
        return;
    }
    const facts = document.querySelectorAll("#facts dd");
    data.facts.forEach((value, index) => setText(facts[index], value));
    for (const [key, rows] of Object.entries(data.tables)) {
        fillTable(document.getElementById(key), rows);
    }
    draw(data.checked);
    document.documentElement.dataset.at = data.at;
}

async function update() {
    const ended = new AbortController();
    const limit = setTimeout(() => ended.abort(), WAIT_MS);
    try {
        const answer = await fetch("data.json", { cache: "no-store", signal: ended.signal });
        if (!answer.ok) {
            throw new Error(`status ${answer.status}`);
        }
        show(await answer.json());
        failures = 0;
        if (!isPaused()) {
            say("Updated every second.", false);
        }
    } catch {
        failures += 1;
        const at = document.documentElement.dataset.at ?? "the start";
        say(`The service does not answer; this is as of ${at}.`, true);
    } finally {
        clearTimeout(limit);
    }
}

function isPaused() {
    return pause.getAttribute("aria-pressed") === "true";
}

async function run() {
    clearTimeout(timer);
    if (isPaused() || document.hidden) {
        return;
    }
    await update();
    clearTimeout(timer);
    timer = setTimeout(run, Math.min(EVERY_MS * 2 ** Math.min(failures, 6), SLOWEST_MS));
}

pause.addEventListener("click", () => {
    const paused = !isPaused();
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) {
        clearTimeout(timer);
        say(`Paused; this is as of ${document.documentElement.dataset.at ?? "the start"}.`, false);
    } else {
        run();
    }
});
document.addEventListener("visibilitychange", run);
pause.hidden = false;
run();
