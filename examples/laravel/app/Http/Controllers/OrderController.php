<?php

namespace App\Http\Controllers;

use App\Events\OrderPaid;

class OrderController
{
    public function show(int $id)
    {
        return view('order', ['id' => $id]);
    }

    /** Stores first and speaks last: who hears of it may ask for the order at once. */
    public function pay(int $id)
    {
        $paidAt = now()->toIso8601String();
        // … your Order is stored here …
        broadcast(new OrderPaid($id, $paidAt))->toOthers();

        return response()->json(['id' => $id, 'paid_at' => $paidAt]);
    }
}
