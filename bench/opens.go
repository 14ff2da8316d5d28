package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// runFill makes the store that other workloads begin with.
func runFill(r *run) error {
	return r.opened(func() error {
		err := r.measure(r.spec.Keys/batchRows+1, 3600, func(g *goroutine, op int) error {
			from := op * batchRows
			n := min(batchRows, r.spec.Keys-from)
			if n <= 0 {
				return nil
			}
			return g.batch(n, func(i int) int { return from + i })
		}, nil)
		r.rest()
		return err
	})
}

// runWrite sets random keys until the process is killed.
func runWrite(r *run) (err error) {
	if r.engine, err = r.kind.open(r.settings()); err != nil {
		return err
	}
	key := hit(r)
	fmt.Println("writing")
	return r.measure(forEver, 3600, func(g *goroutine, op int) error { return g.set(key(op)) }, nil)
}

const opens = 3

// runOpen opens the store a few times, and reads a key each time: after it was
// closed, or after a process that was writing to it was killed. The figure is the
// median.
func runOpen(kill bool) func(r *run) error {
	return func(r *run) error {
		var all []time.Duration
		for n := range opens {
			if kill {
				if err := r.killWriter(); err != nil {
					return err
				}
			}
			start := time.Now()
			var err error
			if r.engine, err = r.kind.open(r.settings()); err != nil {
				return err
			}
			g := r.goroutine()
			if err := g.mustGet(n); err != nil {
				return err
			}
			all = append(all, time.Since(start))
			if err := r.engine.close(); err != nil {
				return err
			}
		}
		middle := median(all)
		r.result.Ops, r.result.Seconds = 1, middle.Seconds()
		r.result.Rate = 1 / middle.Seconds()
		r.result.P50 = middle
		return nil
	}
}

// killWriter has another process write for a while and kills it.
func (r *run) killWriter() error {
	s := r.spec
	s.Workload, s.Goroutines, s.Profile = "write", 2, ""
	arg, err := json.Marshal(s)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, "-child", string(arg))
	child.Stderr = os.Stderr
	begun, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	if _, err := begun.Read(make([]byte, 1)); err != nil {
		_ = child.Process.Kill()
		return fmt.Errorf("the writer did not begin: %w", err)
	}
	time.Sleep(time.Duration(r.spec.Seconds * float64(time.Second)))
	if err := child.Process.Kill(); err != nil {
		return err
	}
	_ = child.Wait() // that it was killed is known
	return nil
}
