<?php

declare(strict_types=1);

session_start(['read_and_close' => true]);
$user = $_SESSION['user'] ?? null;
?>
<!doctype html>
<meta charset="utf-8">
<title>Members</title>
<?php if ($user === null) : ?>
<form method="post" action="login.php">
    <label>Your name <input name="user" required maxlength="40" autofocus></label>
    <button>Log in</button>
</form>
<?php else : ?>
<h1>Hello, <?= htmlspecialchars($user) ?></h1>
<p id="state">connecting</p>
<ul id="heard"></ul>
<form method="post" action="send.php">
    <label>To <input name="to" value="<?= htmlspecialchars($user) ?>" required maxlength="40"></label>
    <label>say <input name="text" required maxlength="200"></label>
    <button>Send</button>
</form>
<form method="post" action="logout.php"><button>Log out</button></form>
<script src="/fanfare.js"></script>
<script src="site.js"></script>
<?php endif ?>
