// The page of one order: what others do with it, and who else looks at it.

const page = document.querySelector('[data-order]');
const { order, user } = page.dataset;
const state = page.querySelector('#state');
const show = (id, text) => { page.querySelector(id).textContent = text; };

window.Echo.private(`orders.${order}`)
  .listen('OrderPaid', (event) => show('#paid', `paid at ${event.paid_at}`))
  .listenForWhisper('typing', (event) => show('#typing', `${event.name} is writing`))
  .subscribed(() => { state.textContent = 'live'; })
  .error((error) => { state.textContent = `not live: ${error.error ?? error.status}`; });

const present = new Map();
const list = () => show('#present', [...present.values()].sort().join(', '));
window.Echo.join(`room.${order}`)
  .here((members) => { present.clear(); for (const { id, name } of members) present.set(id, name); list(); })
  .joining(({ id, name }) => { present.set(id, name); list(); })
  .leaving(({ id }) => { present.delete(id); list(); });

window.Echo.private(`App.Models.User.${user}`)
  .notification(({ number }) => show('#invoice', `Your invoice ${number} is ready.`));

page.querySelector('#note').addEventListener('input', () => {
  window.Echo.private(`orders.${order}`).whisper('typing', { name: page.dataset.name });
});

page.querySelector('#pay').addEventListener('click', async () => {
  const answer = await fetch(`/orders/${order}/pay`, {
    method: 'POST',
    headers: {
      'X-CSRF-TOKEN': document.querySelector('meta[name=csrf-token]').content,
      // So that toOthers() knows who it is not to tell. With axios, Echo sets it by itself.
      'X-Socket-ID': window.Echo.socketId() ?? '',
    },
  });
  show('#paid', `paid at ${(await answer.json()).paid_at}`);
});
