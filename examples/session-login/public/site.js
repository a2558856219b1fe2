// Who she is, the server knows from her cookie: the page says nothing of it.
const state = document.querySelector('#state');
const line = new Fanfare('/ch/private%2Fmembers');
line.onopen = () => { state.textContent = 'connected'; };
line.onmessage = (event) => {
  const item = document.createElement('li');
  item.textContent = event.data;
  document.querySelector('#heard').append(item);
};
line.onclose = (event) => { state.textContent = `disconnected: ${event.reason}`; };
for (const form of document.forms) {
  if (!form.action.endsWith('send.php')) continue;
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    fetch(form.action, { method: 'POST', body: new FormData(form) });
    form.elements.text.value = '';
  });
}
