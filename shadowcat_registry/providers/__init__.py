"""The built-in provider types, a module each. The core never imports one; the catalog names them."""
