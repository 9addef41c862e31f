// show the artefacts and rows whose text has every word of the search box
const box = document.getElementById('search'), found = document.getElementById('found');
const items = [...document.querySelectorAll('[data-search]')].map(
  item => [item, (item.dataset.search + ' ' + item.textContent).toLowerCase()]);
box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [item, text] of items) {
    item.hidden = !words.every(word => text.includes(word));
    shown += !item.hidden;
  }
  found.textContent = words.length ? shown + ' of ' + items.length : '';
});
