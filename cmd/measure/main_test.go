package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The writer that reopen kills is this program, so this test binary must be able
// to play it.
func TestMain(m *testing.M) {
	if os.Args[len(os.Args)-1] == "write" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Every mode runs to its end in a small store, and finds in it what it expects.
func TestModes(t *testing.T) {
	c := config{
		keys: 3000, value: 100, cache: 1, writers: 2, seed: 1, phases: "load,idle,uniform,zipf,delete,refill", cold: 300,
		sample: time.Millisecond, idle: time.Millisecond, duration: 50 * time.Millisecond, rounds: 2, cycles: 2, settle: time.Millisecond,
	}
	for name, mode := range map[string]func(config) error{
		"phases": phases, "reopen": reopen, "cycles": cycles, "stall": stall, "scan hits": scanHits,
	} {
		t.Run(name, func(t *testing.T) {
			c.dir = t.TempDir()
			require.NoError(t, mode(c))
		})
	}
	c.dir, c.phases = t.TempDir(), "load,unload"
	require.ErrorContains(t, phases(c), "unload")
}

func TestDirectory(t *testing.T) {
	c := config{dir: t.TempDir() + "/new"}
	see := func(want bool) {
		_, err := os.Stat(c.dir)
		require.Equal(t, want, err == nil)
	}
	mkdir := func(c config) error { return os.MkdirAll(c.dir, 0o755) }
	require.NoError(t, c.inDir(mkdir))
	see(false)
	c.keep = true
	require.NoError(t, c.inDir(mkdir))
	see(true)
	c.keep = false
	require.NoError(t, c.inDir(mkdir))
	see(true) // it was there before
}
