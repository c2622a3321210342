"""The command line `hostctl`: one module a group of commands, built on click."""
