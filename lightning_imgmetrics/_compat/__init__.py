"""The private names of other libraries that this package uses, one module for each library."""
