package main

import (
	"context"
	"fmt"

	log "github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sigs.k8s.io/external-dns/apis/v1alpha1"
	"sigs.k8s.io/external-dns/endpoint"
	"sigs.k8s.io/external-dns/pkg/apis/externaldns"
)

const resource = "dnsendpoints"

// objects is the source of DNSEndpoint objects, those of all namespaces.
type objects struct {
	client rest.Interface
}

func newObjects(cfg *externaldns.Config) (*objects, error) {
	config, err := clientcmd.BuildConfigFromFlags(cfg.APIServerURL, cfg.KubeConfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, v1alpha1.GroupVersion)
	config.APIPath = "/apis"
	config.GroupVersion = &v1alpha1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.UserAgent = externaldns.UserAgent()
	config.Timeout = cfg.KubeAPIRequestTimeout
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &objects{client: client}, nil
}

// endpoints gives what the objects ask for, and tells them that it was seen.
func (o *objects) endpoints(ctx context.Context) ([]*endpoint.Endpoint, error) {
	list := &v1alpha1.DNSEndpointList{}
	if err := o.client.Get().Resource(resource).Do(ctx).Into(list); err != nil {
		return nil, err
	}
	var all []*endpoint.Endpoint
	for i := range list.Items {
		object := &list.Items[i]
		for _, one := range object.Spec.Endpoints {
			all = append(all, one.WithLabel(endpoint.ResourceLabelKey, fmt.Sprintf("crd/%s/%s", object.Namespace, object.Name)))
		}
		o.observed(ctx, object)
	}
	return endpoint.MergeEndpoints(all), nil
}

func (o *objects) observed(ctx context.Context, object *v1alpha1.DNSEndpoint) {
	if object.Status.ObservedGeneration == object.Generation {
		return
	}
	object.Status.ObservedGeneration = object.Generation
	put := o.client.Put().Namespace(object.Namespace).Resource(resource).Name(object.Name).SubResource("status")
	if err := put.Body(object).Do(ctx).Error(); err != nil {
		log.Warnf("Could not update ObservedGeneration of %s/%s: %v", object.Namespace, object.Name, err)
	}
}
