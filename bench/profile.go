package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
)

// startProfiles begins to profile the measured part of a run, if dir is not empty.
// What it returns ends that and writes the profiles: processor time, allocations,
// mutexes and blocking, for go tool pprof.
func startProfiles(s spec) (stop func() error, err error) {
	if s.Profile == "" {
		return func() error { return nil }, nil
	}
	name := filepath.Join(s.Profile, fmt.Sprintf("%s-%d-%s.", strings.ReplaceAll(s.Workload, " ", "-"), s.Goroutines, s.Kind))
	cpu, err := os.Create(name + "cpu")
	if err != nil {
		return nil, err
	}
	runtime.SetMutexProfileFraction(10)
	runtime.SetBlockProfileRate(10_000) // ns
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		err := cpu.Close()
		for _, kind := range []string{"allocs", "mutex", "block"} {
			f, e := os.Create(name + kind)
			if e == nil {
				e = errors.Join(pprof.Lookup(kind).WriteTo(f, 0), f.Close())
			}
			err = errors.Join(err, e)
		}
		return err
	}, nil
}
