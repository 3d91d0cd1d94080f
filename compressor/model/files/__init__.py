"""What the files of a model directory say, and what is refused in them before anything is made of them."""
