// "Predict, then run": covers each measured answer until the reader has guessed, then shows both.
// A guess lives in sessionStorage, so that a reload keeps it; it goes nowhere else.

const storageKey = (id) => `guess:${location.pathname}:${id}`;

function remembered(id) {
  try {
    return sessionStorage.getItem(storageKey(id));
  } catch {
    return null; // storage is switched off: the guess lasts as long as the page
  }
}

function remember(id, guess) {
  try {
    sessionStorage.setItem(storageKey(id), guess);
  } catch {
    // as above
  }
}

// Numbers that the text below has from the run give the answer away, up to the next question or section.
function numbersBelow(cell) {
  const numbers = [];
  for (let part = cell.nextElementSibling; part && !part.matches(".predict, section"); part = part.nextElementSibling) {
    numbers.push(...part.querySelectorAll(".pasted-text"));
  }
  return numbers;
}

function cover(reveal) {
  const output = reveal.closest(".cell_output");
  const hidden = [...output.querySelectorAll(":scope > *")].filter((part) => !part.contains(reveal));
  hidden.push(reveal.querySelector(".reveal-measured"), ...numbersBelow(reveal.closest(".cell")));
  for (const part of hidden) {
    part.classList.add("covered");
    part.inert = true;
  }
  const bar = document.createElement("div");
  bar.className = "cover";
  bar.innerHTML = `<p><a href="#guess-${reveal.dataset.predict}">Guess first</a>, or</p>
    <button type="button">Show without guessing</button>`;
  output.prepend(bar);
  return () => {
    bar.remove();
    for (const part of hidden) {
      part.classList.remove("covered");
      part.inert = false;
    }
  };
}

function connect(form) {
  const id = form.dataset.predict;
  const reveal = document.querySelector(`.reveal[data-predict="${CSS.escape(id)}"]`);
  if (!reveal) return;
  const unit = form.dataset.unit ? ` (${form.dataset.unit})` : "";
  const field = form.querySelector("input");
  const onwards = form.querySelector(".predict-onwards");
  const uncover = cover(reveal);
  reveal.id = `measured-${id}`;
  form.hidden = false;

  const compare = (guess) => {
    uncover();
    onwards.hidden = false;
    reveal.querySelector(".reveal-verdict").textContent =
      `Your guess: ${Number(guess)}. Measured: ${reveal.dataset.measured}${unit}.`;
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    remember(id, field.value);
    compare(field.value);
  });
  reveal.closest(".cell_output").querySelector(".cover button").addEventListener("click", () => {
    uncover();
    reveal.tabIndex = -1;
    reveal.focus(); // the button is gone; without this the keyboard would start over at the top of the page
  });

  const guess = remembered(id);
  if (guess !== null) {
    field.value = guess;
    compare(guess);
  }
}

document.querySelectorAll(".predict-form").forEach(connect);
