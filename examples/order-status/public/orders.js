"use strict";

const table = document.getElementById("orders");
const live = document.getElementById("live");

function show(order) {
    const row = table.querySelector(`tr[data-id="${Number(order.id)}"]`);
    // "paid" is final: a list that was read before the payment may arrive after the news of it.
    if (row === null || row.querySelector(".status").textContent === "paid") {
        return;
    }
    row.querySelector(".status").textContent = order.status;
    row.querySelector("button").disabled = order.status !== "open";
}

const stream = new EventSource("/ch/orders");
stream.addEventListener("paid", (event) => show(JSON.parse(event.data)));
// Listen first, then read what is: so nothing can happen unseen between the two. Also after every reconnect.
stream.addEventListener("open", async () => {
    live.textContent = "Live.";
    (await (await fetch("/list.php")).json()).forEach(show);
});
stream.addEventListener("error", () => {
    live.textContent = "Not live, trying again…";
});

table.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-id]");
    if (event.target.tagName === "BUTTON") {
        fetch("/pay.php", { method: "POST", body: new URLSearchParams({ id: row.dataset.id }) });
    }
});
