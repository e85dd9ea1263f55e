// external-dns v0.22.0 as far as it can be built everywhere: its flags, plan, TXT registry and RFC 2136 provider, with its
// source of DNSEndpoint objects. The whole program wants the modules of every provider that there is.
//
// It takes the program's own flags, and ends on SIGTERM.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	log "github.com/sirupsen/logrus"

	"sigs.k8s.io/external-dns/endpoint"
	"sigs.k8s.io/external-dns/pkg/apis/externaldns"
	"sigs.k8s.io/external-dns/plan"
	"sigs.k8s.io/external-dns/provider/rfc2136"
	"sigs.k8s.io/external-dns/registry"
	"sigs.k8s.io/external-dns/registry/txt"
)

func main() {
	cfg := externaldns.NewConfig()
	if err := cfg.ParseFlags(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		log.Error(err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg *externaldns.Config) error {
	filter := endpoint.NewDomainFilter(cfg.DomainFilter)
	provider, err := rfc2136.New(ctx, cfg, filter)
	if err != nil {
		return err
	}
	registry, err := txt.New(cfg, servers{Provider: provider, cfg: cfg})
	if err != nil {
		return err
	}
	objects, err := newObjects(cfg)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(cfg.Interval)
	defer ticks.Stop()
	for {
		if err := once(ctx, cfg, objects, registry, filter); err != nil && ctx.Err() == nil {
			log.Errorf("Failed to do run once: %v", err)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// once is one turn of the program's controller.
func once(ctx context.Context, cfg *externaldns.Config, objects *objects, registry registry.Registry, filter *endpoint.DomainFilter) error {
	current, err := registry.Records(ctx)
	if err != nil {
		return err
	}
	desired, err := objects.endpoints(ctx)
	if err != nil {
		return err
	}
	desired, err = registry.AdjustEndpoints(desired)
	if err != nil {
		return err
	}
	planned := (&plan.Plan{
		Policies:       []plan.Policy{plan.Policies[cfg.Policy]},
		Current:        current,
		Desired:        desired,
		DomainFilter:   endpoint.MatchAllDomainFilters{filter, registry.GetDomainFilter()},
		ManagedRecords: cfg.ManagedDNSRecordTypes,
		ExcludeRecords: cfg.ExcludeDNSRecordTypes,
		OwnerID:        registry.OwnerID(),
	}).Calculate()
	if !planned.Changes.HasChanges() {
		return nil
	}
	return registry.ApplyChanges(ctx, planned.Changes)
}
