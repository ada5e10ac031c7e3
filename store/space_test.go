package store

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// TestReadSpace: what is reserved for root is not free. Others write to the disk meanwhile.
func TestReadSpace(t *testing.T) {
	dir := t.TempDir()
	testbed.Eventually(t, 10*time.Second, "the space is what may be used", func() bool {
		got, err := readSpace(dir)
		var stat unix.Statfs_t
		if err != nil || unix.Statfs(dir, &stat) != nil {
			t.Fatal(err)
		}
		return got == space{stat.Bavail * uint64(stat.Bsize), stat.Blocks * uint64(stat.Bsize)}
	})
	if _, err := readSpace(dir + "/x"); err == nil || !strings.Contains(err.Error(), "look at the space of "+dir+"/x: no such file") {
		t.Errorf("want no space of what is not there, got %v", err)
	}
}

// TestSpaceOfDiskThatHangs: a hundred who want to know hold one look, and none
// of them waits for long; when the disk is back, its space is told.
func TestSpaceOfDiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spaceProbe
		var looks atomic.Int64
		read := func(string) (space, error) {
			looks.Add(1)
			time.Sleep(time.Minute)
			return space{1, 2}, nil
		}
		began := time.Now()
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				if _, err := s.measure("/x", read); err == nil || !strings.Contains(err.Error(), "space of /x: no answer for 1s") {
					t.Errorf("want no answer, got %v", err)
				}
			})
		}
		asking.Wait()
		checkEqual(t, "took", spaceTime, time.Since(began))
		checkEqual(t, "looks", int64(1), looks.Load())
		time.Sleep(time.Minute - spaceTime/2 - spaceTime)
		got, err := s.measure("/x", read)
		if err != nil || got != (space{1, 2}) || looks.Load() != 1 {
			t.Errorf("want what the first look saw, got %+v, %v after %d", got, err, looks.Load())
		}
	})
}
