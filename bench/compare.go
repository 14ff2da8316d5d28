package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// compare runs everything and returns all results, or those that there are when it
// is interrupted.
func (f flags) compare() (results []result, err error) {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stores, chosen, err := f.chosen()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(f.dir, "bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if f.profile != "" {
		if err := os.MkdirAll(f.profile, 0o755); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(os.Stderr, "%d keys of 16+%d bytes, %g s each, %d rounds; load of the machine: %s\n", f.keys, f.value, f.seconds, f.rounds, machineLoad())
	full := make(map[string]string)
	for _, k := range stores {
		name := strings.TrimSuffix(k.name, "-batch") // the files are the same
		full[k.name] = filepath.Join(dir, name)
		if _, err := os.Stat(full[k.name]); err == nil || !needFull(chosen) {
			continue
		}
		if _, err := f.child(k, "fill", 2, full[k.name], 0); err != nil {
			return nil, err
		}
	}
	for round := range f.rounds {
		for turn, l := range chosen {
			for _, goroutines := range f.goroutines(l) {
				for i := range stores {
					k := stores[(i+round+turn)%len(stores)]
					if interrupted.Err() != nil {
						return results, nil
					}
					x, err := f.runOne(k, l, goroutines, full[k.name], dir, round)
					if interrupted.Err() != nil {
						return results, nil // the run was interrupted too
					}
					if err != nil {
						return nil, err
					}
					results = append(results, x)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d is done; load of the machine: %s\n", round+1, machineLoad())
	}
	return results, nil
}

func needFull(chosen []*load) bool {
	return slices.ContainsFunc(chosen, func(l *load) bool { return !l.fresh })
}

func (f flags) goroutines(l *load) []int {
	if f.one {
		return l.goroutines[len(l.goroutines)-1:]
	}
	return l.goroutines
}

// runOne runs one workload in one store, in a copy of the full one if it writes.
func (f flags) runOne(k kind, l *load, goroutines int, full, dir string, round int) (result, error) {
	at := full
	if l.fresh || l.writes {
		at = filepath.Join(dir, "copy")
		if !l.fresh {
			if err := copyStore(at, full); err != nil {
				return result{}, err
			}
		}
		defer os.RemoveAll(at)
	}
	return f.child(k, l.name, goroutines, at, round)
}

// copyStore copies what takes space, and keeps holes.
func copyStore(to, from string) error {
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	// What is dirty would be written during the run.
	return filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// child runs a workload in another process.
func (f flags) child(k kind, name string, goroutines int, dir string, round int) (result, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return result{}, err
	}
	arg, err := json.Marshal(spec{
		Kind: k.name, Workload: name, Goroutines: goroutines, Keys: f.keys, Value: f.value,
		Seconds: f.seconds, Dir: dir, Seed: uint64(round) + 1, Profile: f.profile,
	})
	if err != nil {
		return result{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	child := exec.Command(self, "-child", string(arg))
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, os.Stderr
	if err := child.Run(); err != nil {
		return result{}, fmt.Errorf("%s, %s: %w", k.name, name, err)
	}
	var x result
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		return result{}, fmt.Errorf("%s, %s: %w: %q", k.name, name, err, out.Bytes())
	}
	x.Round = round
	if !x.Unsupported {
		fmt.Fprintf(os.Stderr, "%d %-18s %2d %-12s %12.0f/s  %6.1f s\n", round+1, name, goroutines, k.name, x.Rate, time.Since(start).Seconds())
	}
	return x, nil
}

func machineLoad() string {
	b, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(b)); err == nil && len(fields) > 2 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}
