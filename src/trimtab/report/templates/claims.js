(() => {
const by = (id) => document.getElementById(id), form = by('choose'), list = by('cards'), told = by('told');
if (!form) return;
const cards = [...list.children], picked = (name) => form.elements[name].selectedOptions[0];
const draw = () => {
  const {seed, stage, kind} = Object.fromEntries(['seed', 'stage', 'kind'].map((name) => [name, picked(name).value]));
  const shown = [];
  for (const card of cards) {
    let rank = -1;
    for (const column of card.querySelectorAll('[data-stage]')) {
      column.hidden = column.dataset.stage !== stage;
      if (!column.hidden && (!kind || column.dataset.kinds.split(' ').includes(kind))) rank = +column.dataset.rank;
    }
    card.hidden = rank < 0 || card.dataset.seed !== seed;
    if (!card.hidden) shown.push([rank, card]);
  }
  list.append(...shown.sort((a, b) => a[0] - b[0]).map(([, card]) => card));
  by('count').textContent = `${shown.length} ${shown.length === 1 ? 'question' : 'questions'}: seed ${picked('seed').text}, ` +
    `stage ${picked('stage').text}, ${picked('kind').text}.`;
  for (const line of document.querySelectorAll('[data-left]')) line.hidden = line.dataset.left !== seed;
};
const numbers = () => list.classList.toggle('numbers', form.elements.numbers.checked);
const tell = (event) => {
  const claim = event.target.closest && event.target.closest('mark.claim');
  told.hidden = !claim;
  if (claim) told.textContent = `${claim.querySelector('sup').textContent} “${claim.querySelector('.said').textContent.trim()}” ${claim.title}`;
};
form.hidden = false;
form.addEventListener('change', () => { draw(); numbers(); });
document.addEventListener('click', tell);
document.addEventListener('focusin', tell);
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') told.hidden = true; });
draw();
numbers();
})();
