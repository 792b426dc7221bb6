package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weir/internal/config"
	"weir/internal/ledger"
	"weir/internal/stream"
)

const (
	partitionsSetting = "partitions"
	// embeddedPartitions are few: each is a batch, and so a transaction and a
	// block, of its own.
	embeddedPartitions = 4
	clusterPartitions  = 24
	// trimEvery is how often the embedded log drops what is settled and appended.
	trimEvery = time.Minute
	// endsTimeout bounds the question how far the log reaches: while the brokers
	// are away a tie-out says so instead of hanging.
	endsTimeout = 5 * time.Second
)

// errNoLog says that the usage log was not reached since the start.
var errNoLog = errors.New("the usage log cannot be reached yet")

// openSpool opens the local log of this gateway's data directory.
func (a *App) openSpool() (err error) {
	a.spool, err = stream.OpenSpool(stream.SpoolConfig{Dir: filepath.Join(a.cfg.DataDir, "spool"), MaxBytes: int64(a.cfg.Spool.MaxBytes), Log: a.log})
	return err
}

// openLog opens the embedded usage log, or begins to look for the cluster's.
// Only a process that does nothing but process waits for the cluster here:
// gateways serve from their spool, and the control plane answers without it.
func (a *App) openLog(ctx, work context.Context) error {
	cfg, err := logConfig(a.cfg, a.partitions)
	if err != nil {
		return Usage{err}
	}
	cfg.Log = a.log
	if len(cfg.Brokers) == 0 {
		l, err := stream.OpenLog(ctx, cfg)
		if err == nil {
			a.setLog(l)
		}
		return err
	}
	a.background.Go(func() {
		_ = a.retry(work, "usage log", func() error { // ends with work, or when the log is there
			l, err := stream.OpenLog(work, cfg)
			if err == nil {
				a.setLog(l)
			}
			return err
		})
	})
	if a.role != config.RoleProcessor {
		return nil
	}
	a.awaits("usage log")
	defer a.awaits("")
	select {
	case <-a.logReached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setLog makes the log known to all who wait for it. Called once.
func (a *App) setLog(l *stream.Log) {
	a.usageLog = l
	close(a.logReached)
}

// reachedLog is the usage log, nil while it was not reached.
func (a *App) reachedLog() *stream.Log {
	select {
	case <-a.logReached:
		return a.usageLog
	default:
		return nil
	}
}

// startOnLog runs a part from when the usage log is there until work ends.
func (a *App) startOnLog(what string, work context.Context, part func(*stream.Log) error) {
	a.start(what, func() error {
		select {
		case <-a.logReached:
			return part(a.usageLog)
		case <-work.Done():
			return nil
		}
	})
}

// produce brings the spool to the log, and has the heartbeat ask how far that
// is settled.
func (a *App) produce(work context.Context) {
	a.startOnLog("usage log", work, func(l *stream.Log) error {
		a.heart.SetTopic(l.TopicID())
		return l.Produce(work, a.spool)
	})
}

func (a *App) logEnds(ctx context.Context) (string, map[int32]int64, error) {
	l := a.reachedLog()
	if l == nil {
		return "", nil, errNoLog
	}
	ctx, cancel := context.WithTimeout(ctx, endsTimeout)
	defer cancel()
	ends, err := l.EndOffsets(ctx)
	return l.TopicID(), ends, err
}

// trim keeps the embedded log small: what is settled and appended is needed no
// more there.
func (a *App) trim(work context.Context, l *stream.Log) {
	for every := time.NewTicker(trimEvery); ; {
		select {
		case <-work.Done():
			every.Stop()
			return
		case <-every.C:
		}
		progress, err := a.ledger.Progress(work, l.TopicID())
		if err == nil {
			done := make(map[int32]int64, len(progress))
			for _, p := range progress {
				done[p.Part] = min(p.Settled, p.Appended)
			}
			err = l.Trim(work, done)
		}
		if err != nil && work.Err() == nil {
			a.log.Warn("cannot trim the usage log", "err", err)
		}
	}
}

// logConfig is where the usage log is, as configured.
func logConfig(c config.Config, partitions int) (stream.LogConfig, error) {
	k := c.Kafka
	secure, err := clientTLS(k.TLS)
	return stream.LogConfig{Brokers: k.Brokers, Topic: k.Topic, Partitions: partitions, Dir: filepath.Join(c.DataDir, "log"), TLS: secure,
		SASL: stream.SASLConfig{Mechanism: strings.ToUpper(k.SASL.Mechanism), Username: k.SASL.Username, Password: k.SASL.Password.Reveal()}}, err
}

// readPartitions is fixed at first start: another number would spread a customer's
// records over two partitions and so break their order.
func readPartitions(ctx context.Context, db *ledger.DB, k config.Kafka) (int, error) {
	want := k.Partitions
	if want == 0 {
		want = embeddedPartitions
		if len(k.Brokers) > 0 {
			want = clusterPartitions
		}
	}
	text, err := db.Setting(ctx, partitionsSetting, fmt.Sprint(want))
	if err != nil {
		return 0, err
	}
	var have int
	if _, err := fmt.Sscan(text, &have); err != nil {
		return 0, fmt.Errorf("the ledger's setting %s is %q: %w", partitionsSetting, text, err)
	}
	if k.Partitions != 0 && have != want {
		return 0, Usage{fmt.Errorf("kafka.partitions is %d, this installation was started with %d; the number cannot be changed in place", want, have)}
	}
	return have, nil
}

func clientTLS(c config.TLS) (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read kafka.tls.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls.ca_file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read kafka.tls.cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
