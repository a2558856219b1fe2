<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="csrf-token" content="{{ csrf_token() }}">
  <title>Order {{ $id }}</title>
  @vite(['resources/js/app.js', 'resources/js/order.js'])
</head>
<body>
  <main data-order="{{ $id }}" data-user="{{ auth()->id() }}" data-name="{{ auth()->user()->name }}">
    <h1>Order {{ $id }} <small id="state">connecting</small></h1>
    <p id="paid">not paid</p>
    <button id="pay">Pay</button>
    <p>Looking at it: <span id="present"></span></p>
    <label>Note <input id="note"></label> <span id="typing"></span>
    <p id="invoice"></p>
  </main>
</body>
</html>
