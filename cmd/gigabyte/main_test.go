package main

import "testing"

func TestRun(t *testing.T) {
	*sizeMiB, *cacheMiB, *hotKeys, *dir = 8, 2, 1000, t.TempDir()
	if err := run(); err != nil {
		t.Fatal(err)
	}
}
