package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

// reopen loads a store and opens it again and again: after Close, and after a
// process that was writing to it has been killed. The files are in the system's
// cache, as far as it kept them.
func reopen(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if _, err := s.fill(); err != nil {
		return err
	}
	t := newTable("", "Open ms", "first Get ms", "updates replayed")
	timed := func(what string) error {
		start := time.Now()
		d, err := db.Open(c.dir, c.options())
		if err != nil {
			return fmt.Errorf("open %s: %w", what, err)
		}
		opened := time.Since(start)
		s.db = d
		w := &worker{s: s}
		if err := w.get(workload.Below(uint64(start.UnixNano()), s.rows.Keys)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		got := time.Since(start) - opened
		t.row(what, ms(opened), ms(got), d.Metrics().Pages.ReplayedOnOpen)
		return nil
	}
	for range c.rounds {
		if err := s.db.Close(); err != nil {
			return err
		}
		if err := timed("after Close"); err != nil {
			return err
		}
	}
	for range c.rounds {
		if err := s.db.Close(); err != nil {
			return err
		}
		if err := killWriter(c); err != nil {
			return err
		}
		if err := timed("after kill -9"); err != nil {
			return err
		}
	}
	t.print()
	return s.db.Close()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }

// killWriter has another process write to the store for a while and kills it.
func killWriter(c config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, "-dir", c.dir, "-keys", strconv.Itoa(c.keys), "-value", strconv.Itoa(c.value),
		"-cache", fmt.Sprint(c.cache), "-writers", strconv.Itoa(c.writers), fmt.Sprint("-zstd=", c.zstd), "write")
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("the writer ended by itself: %w", err)
	case <-time.After(c.duration):
	}
	if err := child.Process.Kill(); err != nil {
		return err
	}
	<-ended
	return nil
}

// writeForever overwrites random keys of an existing store until it is killed.
func writeForever(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	for {
		if _, _, err := s.overwrite(s.uniform()); err != nil {
			return err
		}
	}
}
