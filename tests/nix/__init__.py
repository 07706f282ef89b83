"""The flake, by real Nix, with stand-ins for all that it would fetch."""
