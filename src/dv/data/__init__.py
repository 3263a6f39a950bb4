"""Reading an object's views, and sampling training steps from them."""
