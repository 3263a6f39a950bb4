"""The interactive viewer: what a page in the browser shows, and who draws it when."""
