/* SPDX-License-Identifier: Apache-2.0 */
/* list.h - a doubly linked list whose links live in the objects: no allocation, removal in place. */
#pragma once
#include "base/checked.h"
#include "base/forward.h"

struct list_link {
	struct list_link *next, *prev;
};

static inline void list_init(struct list_link *head)
{
	head->next = head->prev = head;
}

static inline bool list_is_empty(const struct list_link *head)
{
	return head->next == head;
}

static inline void list_insert_before(struct list_link *at, struct list_link *l)
{
	l->prev = at->prev;
	l->next = at;
	at->prev->next = l;
	at->prev = l;
}

static inline void list_append(struct list_link *head, struct list_link *l)
{
	list_insert_before(head, l);
}

/* Afterwards l is a list of its own, so that removing it twice does no harm. */
static inline void list_remove(struct list_link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

#define list_entry(l, type, member) container_of(l, type, member)
#define list_for_each(l, head) for (struct list_link *l = (head)->next; l != (head); l = l->next)
