package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	ackedName = "acked.json"
	// ackedVersion is the version of acked.json. A change of meaning takes the
	// next number; a file of another version is refused, and may be deleted at
	// the price of producing everything in the spool again.
	ackedVersion = 1
	// ackedInterval bounds how often acked.json is written. What a crash lets
	// it miss is produced again and recognized by (lease, seq).
	ackedInterval = time.Second
)

// ackedFile is acked.json: how far which log has the spool. It is only a
// shortcut, so it is replaced atomically and may be old.
type ackedFile struct {
	Version  int            `json:"version"`
	TopicID  string         `json:"topic_id"`
	Acked    Pos            `json:"acked"`   // the log acknowledged everything before
	Settled  Pos            `json:"settled"` // ledger and warehouse have everything before
	Segments []ackedSegment `json:"segments"`
}

// ackedSegment holds the greatest acknowledged offsets of a segment's records.
type ackedSegment struct {
	Base    Pos          `json:"base"`
	Offsets []partOffset `json:"offsets"`
}

// readAcked reads acked.json; without one the zero value stands for a spool
// that no log knows.
func readAcked(dir string) (ackedFile, error) {
	var a ackedFile
	b, err := os.ReadFile(filepath.Join(dir, ackedName))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Version != ackedVersion {
		err = fmt.Errorf("version %d, this program reads version %d", a.Version, ackedVersion)
	}
	if err != nil {
		return a, fmt.Errorf("cannot read %s: %w", ackedName, err)
	}
	return a, nil
}

// ackedChanged marks acked.json as out of date. Caller holds mu.
func (s *Spool) ackedChanged() {
	s.ackedChange++
	signal(s.ackedMoved)
}

// keepAcked writes acked.json after changes, and at the end.
func (s *Spool) keepAcked() {
	defer s.running.Done()
	for {
		select {
		case <-s.ackedMoved:
		case <-s.closing:
			select {
			case <-s.ackedMoved:
				s.writeAcked()
			default:
			}
			return
		}
		s.writeAcked()
		pause := time.NewTimer(ackedInterval)
		select {
		case <-pause.C:
		case <-s.closing:
			pause.Stop()
		}
	}
}

// writeAcked replaces acked.json. A failure is logged and not returned: the
// file on the disk is then an older one, which costs only repetition.
func (s *Spool) writeAcked() {
	s.mu.Lock()
	a := ackedFile{Version: ackedVersion, TopicID: s.topicID, Acked: s.acked, Settled: s.settledTo()}
	for _, g := range s.segments {
		if g.base < a.Acked && g.end() > a.Settled {
			a.Segments = append(a.Segments, ackedSegment{g.base, append([]partOffset{}, g.offsets...)})
		}
	}
	s.mu.Unlock()
	if a.TopicID == "" {
		return
	}
	if err := replaceFile(filepath.Join(s.cfg.Dir, ackedName), a); err != nil {
		s.cfg.Log.Warn("spool position not saved", "error", err)
	}
}

// replaceFile writes v as JSON so that path always holds a whole file.
func replaceFile(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
