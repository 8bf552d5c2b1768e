"""The contract of plug-ins as checks that are run: what `verify` and the contract test do. See `benchmark.verify`."""
