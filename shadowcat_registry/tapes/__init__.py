"""What works over handles: whole tapes into a storage, out of it, and from one to another.

Functions over `TapeStorage`, a module each. They know tapes and tape files, and no kind of storage: what is
written here works on all of them.
"""
