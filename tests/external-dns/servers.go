package main

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"sigs.k8s.io/external-dns/endpoint"
	"sigs.k8s.io/external-dns/pkg/apis/externaldns"
	"sigs.k8s.io/external-dns/provider"
)

// servers is the RFC 2136 provider with another list of what there is: each record in the form in which it is asked for.
// The provider's own has the strings of a TXT record as so many records, without quotes, and no MX records, so that it takes
// what it has published for something else at each turn, and asks for the deletion of records that there aren't.
type servers struct {
	provider.Provider
	cfg *externaldns.Config
}

func (s servers) Records(context.Context) ([]*endpoint.Endpoint, error) {
	var all []*endpoint.Endpoint
	for _, zone := range s.cfg.RFC2136Zone {
		records, err := s.transfer(zone)
		if err != nil {
			return nil, provider.NewSoftError(err)
		}
		all = append(all, together(records)...)
	}
	return all, nil
}

// transfer asks for a zone (RFC 5936).
func (s servers) transfer(zone string) ([]dns.RR, error) {
	key := dns.Fqdn(s.cfg.RFC2136TSIGKeyName)
	question := new(dns.Msg)
	question.SetAxfr(dns.Fqdn(zone))
	question.SetTsig(key, dns.Fqdn(s.cfg.RFC2136TSIGSecretAlg), 300, time.Now().Unix())
	transfer := &dns.Transfer{TsigSecret: map[string]string{key: s.cfg.RFC2136TSIGSecret}}
	envelopes, err := transfer.In(question, net.JoinHostPort(s.cfg.RFC2136Host[0], strconv.Itoa(s.cfg.RFC2136Port)))
	if err != nil {
		return nil, err
	}
	var records []dns.RR
	for envelope := range envelopes {
		if envelope.Error != nil {
			return nil, envelope.Error
		}
		records = append(records, envelope.RR...)
	}
	return records, nil
}

// together makes an endpoint of the records with a name and type.
func together(records []dns.RR) []*endpoint.Endpoint {
	byKey := map[endpoint.EndpointKey]*endpoint.Endpoint{}
	var endpoints []*endpoint.Endpoint
	for _, record := range records {
		header := record.Header()
		kind := dns.TypeToString[header.Rrtype]
		if kind == "SOA" {
			continue
		}
		value := strings.TrimPrefix(record.String(), header.String())
		one := endpoint.NewEndpointWithTTL(header.Name, kind, endpoint.TTL(header.Ttl), value)
		if one == nil {
			continue
		}
		if held, ok := byKey[one.Key()]; ok {
			held.Targets = append(held.Targets, one.Targets...)
			continue
		}
		byKey[one.Key()] = one
		endpoints = append(endpoints, one)
	}
	return endpoints
}
